"""Python's interpreter lock, where a thread of its own starts the runs of a model."""

import sys

# Python's own 5 ms are as long as many runs: with them the engine idles for a tenth of its time under many streams, and
# on a GPU, where a step takes half a millisecond, 32 texts come a tenth more slowly.
SWITCH_INTERVAL_S = 0.0005


def hand_over_soon() -> None:
    """Who wants the interpreter between two runs has it soon, also while the event loop tells what came of others."""
    sys.setswitchinterval(SWITCH_INTERVAL_S)
