"""How the `trivium` command starts: who interrupts it while its libraries are still being loaded sees no traceback."""

import sys

INTERRUPTED = 130  # the exit status, as a shell gives it


def main() -> None:
    """Runs `trivium.client.main`."""
    try:
        from trivium.client.main import main as command
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    command()
