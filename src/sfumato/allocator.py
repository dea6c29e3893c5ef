"""Tell the C library's allocator to keep freed memory.

glibc returns a block of more than 32 MiB to the system as soon as it is freed, so every page of the next block has to
be mapped and zeroed again. A training step frees and allocates many such blocks.
"""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # the parameters' numbers in malloc.h
KEPT = 2**30  # bytes


def keep_freed_memory() -> bool:
    """Tell glibc's malloc to keep up to 1 GiB of freed memory; return whether there is such a malloc."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and bool(mallopt(MMAP_THRESHOLD, KEPT)) and bool(mallopt(TRIM_THRESHOLD, KEPT))
