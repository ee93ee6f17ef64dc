"""What the failure of an attempt means for a stream or sequence that can go on elsewhere."""

from typing import Literal

from google.rpc import code_pb2

from gateway.outliers import FAULTS
from gateway.retries import LOST, model_gone
from services.kit.errors import retry_after_s
from services.kit.transport.upstream import CallFailed

# broken: it may have been the request that broke it; fault: the instance failed at it, and another one may not; away:
# the request never got to work; refused: another instance, or this one later, may accept it; final: every other instance
# would say the same.
Verdict = Literal["broken", "fault", "away", "refused", "final"]


def verdict(failure: CallFailed) -> Verdict:
    """Whether another attempt can do better, and what this one says about the request."""
    code, untouched = failure.status.code, failure.executed == "no"
    if code in LOST:
        return "away" if untouched else "broken"
    if code in FAULTS:
        return "fault"
    full = code == code_pb2.RESOURCE_EXHAUSTED and retry_after_s(failure.status) is not None
    return "refused" if untouched and (full or model_gone(failure)) else "final"
