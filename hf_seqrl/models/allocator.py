"""Memory that was freed stays with the process, so that the next update or plan need not ask for its pages again."""

import ctypes
from functools import cache

# Numbers of glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_INT = 2**31 - 1
_LARGEST_MMAP_THRESHOLD = 32 * 2**20  # what every glibc accepts


@cache
def keep_freed_memory() -> bool:
    """Tell glibc's allocator to keep what is freed instead of handing it back to the system.

    PyTorch frees and allocates the same megabytes at every step. By default glibc returns them to the system each time,
    and the system clears their pages anew: 10 to 20 % of an update on a CPU. The process keeps the most that it ever
    held at once, no more. Elsewhere than on Linux with glibc nothing changes.

    Returns:
        `bool`: Whether the allocator was configured.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; `CDLL(None)` does not exist on Windows
        return False
    enlarged = mallopt(_M_MMAP_THRESHOLD, _LARGEST_INT) or mallopt(_M_MMAP_THRESHOLD, _LARGEST_MMAP_THRESHOLD)
    return bool(enlarged and mallopt(_M_TRIM_THRESHOLD, _LARGEST_INT))
