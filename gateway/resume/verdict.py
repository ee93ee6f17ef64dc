"""What the failure of an attempt means for a stream or sequence that can go on elsewhere."""

from typing import Literal

from google.rpc import code_pb2

from gateway.outliers import FAULTS
from gateway.retries import LOST, model_gone
from services.kit.errors import DeadlineUnreachable, error_info, retry_after_s
from services.kit.transport.upstream import CallFailed

# broken: it may have been the request that broke it; fault: the instance failed at it, and another one may not; away:
# the request never got to work; refused: another instance, or this one later, may accept it; late: another one may, and
# later is too late; final: every other instance would say the same.
Verdict = Literal["broken", "fault", "away", "refused", "late", "final"]


def verdict(failure: CallFailed) -> Verdict:
    """Whether another attempt can do better, and what this one says about the request."""
    code, untouched = failure.status.code, failure.executed == "no"
    if code in LOST:
        return "away" if untouched else "broken"
    if code in FAULTS:
        return "fault"
    if not untouched:
        return "final"
    if code == code_pb2.RESOURCE_EXHAUSTED and retry_after_s(failure.status) is not None:
        info = error_info(failure.status)
        return "late" if info is not None and info.reason == DeadlineUnreachable.reason else "refused"
    return "refused" if model_gone(failure) else "final"
