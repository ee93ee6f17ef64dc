"""Huge pages: a run on the CPU reads all weights of its session; in small pages, it waits for where they are, too."""

import ctypes
import errno
import mmap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

KERNEL = Path("/sys/kernel/mm/transparent_hugepage")
MAPPINGS = Path("/proc/self/maps")
COLLAPSE, HUGEPAGE = 25, 14  # of madvise: at once, which Linux can from 6.1 on; when the kernel comes to it
NO_MORE = (errno.ENOMEM, errno.EBUSY)  # no huge page is left, or the control group has no room to copy into one


def join_pages() -> int:
    """Makes huge pages of the small ones that this process has by now.

    Only what is full of pages becomes a huge one, so that it takes no more memory than before: weights are, and a
    thread's stack is not. (Zeros that were read and never written have pages that cost nothing, and then some that do.)
    Where the kernel has none, or is told to `never` use them, nothing happens.

    Returns:
        Bytes that are in huge pages now. Others may come to be later, where the kernel had none to give.
    """
    try:
        if "[never]" in (KERNEL / "enabled").read_text():
            return 0
        size = int((KERNEL / "hpage_pmd_size").read_text())
        return _join(list(_full(size)), size)
    except OSError:  # no Linux, or one without them
        return 0


def _join(addresses: list[int], size: int) -> int:
    madvise, joined, left = _call("madvise", ctypes.c_int), 0, True
    for address in addresses:
        if left and madvise(address, size, COLLAPSE) == 0:
            joined += size
            continue
        if ctypes.get_errno() in NO_MORE and _mapped(address, size):
            left = False  # each further try would search all memory for one
        madvise(address, size, HUGEPAGE)
    return joined


def _mapped(address: int, size: int) -> bool:
    """Whether it is still there: another thread may have given it back, which the kernel says by ENOMEM, too."""
    pages = np.zeros(size // mmap.PAGESIZE, np.uint8)
    return bool(_call("mincore", ctypes.c_void_p)(address, size, pages.ctypes.data) == 0)


def _full(size: int) -> Iterator[int]:
    """Addresses of stretches of `size` bytes, and multiples of it, that have all their pages."""
    mincore = _call("mincore", ctypes.c_void_p)
    for start, end in _anonymous():
        start = -(-start // size) * size
        count = max(0, end - start) // size
        pages = np.zeros((count, size // mmap.PAGESIZE), np.uint8)
        if count and mincore(start, count * size, pages.ctypes.data) == 0:
            yield from (start + int(index) * size for index in np.flatnonzero((pages & 1).all(axis=1)))


def _anonymous() -> Iterator[tuple[int, int]]:
    """Where memory that is this process's own and no file's begins and ends."""
    for line in MAPPINGS.read_text().splitlines():
        addresses, permissions, _, _, inode, *_ = line.split()
        if permissions == "rw-p" and inode == "0":
            start, end = addresses.split("-")
            yield int(start, 16), int(end, 16)


def _call(name: str, last: type) -> Any:
    call = ctypes.CDLL(None, use_errno=True)[name]
    call.argtypes = (ctypes.c_void_p, ctypes.c_size_t, last)
    return call
