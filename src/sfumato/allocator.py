"""Memory that stays: the C library's allocator is told to keep what is freed.

glibc gives a block of more than 32 MiB back to the system as soon as it is freed, and every page of the next one has to
be mapped and zeroed again. A training step frees and asks for many of them.
"""

import ctypes
import sys

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3  # the parameters' numbers in malloc.h
KEPT = 2**30  # bytes


def keep_freed_memory() -> bool:
    """Tells glibc's malloc to keep up to 1 GiB of freed memory; says whether there was one to tell."""
    if not sys.platform.startswith("linux"):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # musl has none
    return mallopt is not None and bool(mallopt(MMAP_THRESHOLD, KEPT)) and bool(mallopt(TRIM_THRESHOLD, KEPT))
