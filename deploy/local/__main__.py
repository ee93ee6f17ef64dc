"""Starts Consul, the services and the gateway on this machine: python -m deploy.local [--replicas N] [--cpu]."""

import os
import signal

INTERRUPTED = 130  # exit code, as of a shell's command: 128 and the signal's number


def run() -> None:
    """Nothing is up until the launcher listens to signals itself: an interrupt before that leaves nothing to stop."""
    signal.signal(signal.SIGINT, lambda *_: os._exit(INTERRUPTED))
    from deploy.local.main import main  # takes most of a second, in which people change their minds

    main()


if __name__ == "__main__":
    run()
