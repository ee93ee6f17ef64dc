"""Becomes a command that the kernel kills when the process that started it is gone: leash.py PARENT_PID COMMAND...

A program of its own and not a function called between fork and exec: the launcher has threads, and Python code in a
forked copy of them may hang. Only Linux has such a leash; elsewhere the command simply runs.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1  # prctl(2); survives exec


def main() -> None:
    parent, *command = sys.argv[1:]
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != int(parent):  # it was gone before the leash was on
            sys.exit("leash: the launcher is gone")
    os.execv(command[0], command)


if __name__ == "__main__":
    main()
