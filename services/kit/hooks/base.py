"""Hook: the shape of what runs at both ends of a call."""

from services.kit.call import Call


class Hook:
    """Two plain functions around a call; neither blocks, awaits or raises anything but a TriviumError in `start`."""

    def start(self, call: Call) -> None:
        """Before the handler. Raises a TriviumError to refuse the call."""

    def end(self, call: Call, error: BaseException | None) -> None:
        """After the handler or a refusal; `error` is what ended the call, None if it succeeded."""
