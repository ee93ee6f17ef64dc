"""What happens at the start and at the end of every call.

From the outside in: observe, errors, identify, deadline, admission. `start` runs in that order and `end` in reverse,
so that observe, the outermost, sees the code that the caller sees. A hook whose `start` was not reached gets no `end`.
"""

from services.kit.hooks.admission import Admission
from services.kit.hooks.base import Hook
from services.kit.hooks.deadline import Deadlines
from services.kit.hooks.errors import Errors
from services.kit.hooks.identify import Identify
from services.kit.hooks.observe import Observe

__all__ = ["Admission", "Deadlines", "Errors", "Hook", "Identify", "Observe"]
