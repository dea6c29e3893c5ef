"""Freed memory stays: fresh processes count the pages that the system has to map for blocks of 40 MiB."""

import subprocess
import sys

import pytest

PAGES = 40 * 2**20 // 4096
PROGRAM = """
import resource, sys, torch
from sfumato.allocator import keep_freed_memory
told = keep_freed_memory() if sys.argv[1] == "keep" else False
for _ in range(20):  # until the kept blocks have grown together
    torch.ones(10 * 2**20)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(5):
    torch.ones(10 * 2**20)
print(told, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(way: str) -> tuple[bool, int]:
    """Whether the allocator was told, and the page faults of five blocks of 40 MiB, each freed before the next."""
    out = subprocess.run([sys.executable, "-c", PROGRAM, way], capture_output=True, text=True, check=True)
    told, count = out.stdout.split()
    return told == "True", int(count)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the allocator is glibc's")
def test_kept_memory_is_not_mapped_again():
    told, kept = faults("keep")
    _, given_back = faults("leave")

    if not told:
        pytest.skip("this C library has no mallopt")
    assert kept < PAGES / 100
    # Huge pages, where the system gives them, are mapped 512 at a time.
    assert given_back > 5 * PAGES / 512
