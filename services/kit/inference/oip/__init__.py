"""The Open Inference Protocol (inference.GRPCInferenceService) for one instance."""

from services.kit.inference.oip.not_offered import not_offered
from services.kit.inference.oip.servicer import Answer, OipServicer, through_batcher

__all__ = ["Answer", "OipServicer", "not_offered", "through_batcher"]
