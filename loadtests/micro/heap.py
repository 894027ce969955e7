"""glibc's heap in a known state: otherwise the cost of a large read depends on what the process did before.

glibc gives freed memory at the end of its heap back to the kernel, which maps it in again, page by page, at
the next request. Whether reads of 256 KiB meet that is a matter of what else the process has allocated and
freed: lines of 64 KiB took 15 µs each in one process and 60 in another. Here memory is kept, as it is in a
process that has served for a while.
"""

from __future__ import annotations

import ctypes

# From malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3

KEPT_BYTES = 64 << 20
LARGEST_BLOCK = 4 << 20


def keep_freed_memory() -> bool:
    """Have freed memory kept by this process; False where the system's allocator is not glibc's."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    return bool(mallopt(M_MMAP_THRESHOLD, LARGEST_BLOCK) and mallopt(M_TRIM_THRESHOLD, KEPT_BYTES))
