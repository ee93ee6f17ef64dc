"""contain.py ROOT USER [SOURCE:TARGET...] -- COMMAND...: a container of this machine's own, where no engine runs any.

COMMAND becomes process 1 of its own process table, as USER (uid:gid) without privileges, in the folder ROOT as its
read-only root, with the folders SOURCE read-only at TARGET. The network and the environment are the caller's. SIGTERM
and SIGINT go on to it; its exit code comes back. Needs root and util-linux.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType

LEASH = Path(__file__).resolve().parents[2] / "deploy/local/leash.py"
# Paths are absolute: PATH is the image's.
SCRIPT = """
root=$1 user=$2
shift 2
/bin/mount --bind "$root" "$root"
/bin/mount -t proc proc "$root/proc"
/bin/mount --rbind /dev "$root/dev"
while [ "$1" != -- ]; do
    /bin/mount --bind "${1%%:*}" "$root${1#*:}"
    /bin/mount -o remount,ro,bind "$root${1#*:}"
    shift
done
shift
/bin/mount -o remount,ro,bind "$root"
exec /usr/bin/setpriv --no-new-privs /usr/sbin/chroot --userspec="$user" --groups= "$root" "$@"
"""


def main(arguments: list[str]) -> int:
    """The exit code; 128 and the number of the signal that ended it."""
    unshare = ["/usr/bin/unshare", "--mount", "--ipc", "--uts", "--pid", "--fork", "--kill-child"]
    leash = [sys.executable, "-I", "-S", str(LEASH), str(os.getpid())]
    process = subprocess.Popen([*leash, *unshare, "/bin/sh", "-ec", SCRIPT, "contain", *arguments])

    def pass_on(number: int, frame: FrameType | None) -> None:
        for child in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split():
            os.kill(int(child), number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, pass_on)
    code = process.wait()
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
