"""Memory that stays with the process: on a CPU, giving it back and asking for it anew costs a tenth of a step."""

import ctypes
import os
import sys

# glibc's numbers of the settings, and their values in bytes; mallopt(3) describes them.
SETTINGS = {
    -1: 2**31 - 1,  # M_TRIM_THRESHOLD: so much is kept free
    -2: 64 * 2**20,  # M_TOP_PAD: asked for at a time
    -3: 2**30,  # M_MMAP_THRESHOLD: smaller blocks are reused, not mapped each time
}


def keep_freed_memory() -> bool:
    """Lets the next step have what the last one freed, in this process and those it forks from now on.

    glibc gives the activations' memory back to the kernel after each step, and gets it again page by page, each zeroed.
    Peak memory stays as it is. Nothing happens without glibc, or where the environment says how glibc shall do it
    (MALLOC_...).

    Returns:
        Whether it is so now.
    """
    if not sys.platform.startswith("linux") or any(name.startswith("MALLOC_") for name in os.environ):
        return False
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):  # another C library
        return False
    return all(mallopt(number, value) == 1 for number, value in SETTINGS.items())
