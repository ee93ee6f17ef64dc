"""How the `trivium` command starts: who interrupts it while its libraries are still being loaded sees no traceback."""

import sys

from trivium.exits import INTERRUPTED


def main() -> None:
    """Runs `trivium.client.main`."""
    try:
        from trivium.client.main import main as command
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    command()
