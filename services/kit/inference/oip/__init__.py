"""The Open Inference Protocol (inference.GRPCInferenceService) for one instance."""

from services.kit.inference.oip.inference import Answer, through_batcher
from services.kit.inference.oip.not_offered import not_offered
from services.kit.inference.oip.servicer import OipServicer

__all__ = ["Answer", "OipServicer", "not_offered", "through_batcher"]
