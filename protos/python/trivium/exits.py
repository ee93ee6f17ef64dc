"""How the `trivium` command ends where somebody interrupts it."""

import signal

INTERRUPTED = 128 + signal.SIGINT  # the exit status, as a shell gives it
