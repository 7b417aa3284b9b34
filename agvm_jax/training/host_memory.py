"""Lets a CPU run keep the memory that it frees from one step to the next.

A compiled program asks for its temporary memory at every step, in one block, and gives
it back at the end: 0.9 GB for RetinaNet ResNet-50 at 256 px and batch 4. The C library
returns such a block to the system, and the next step pays for it again, page by page:
240,000 page faults, a seventh of the step's time. GPUs and TPUs have allocators of
their own; there this changes nothing that matters.
"""

import ctypes

import jax

# <malloc.h>, parameters of mallopt
_TRIM_THRESHOLD = -1
_MMAP_MAX = -4


def keep_freed_memory() -> bool:
    """Makes the C library reuse freed memory; returns whether it could be told.

    Call it before the first computation. From then on the process holds on to the most
    that it ever needed. Only glibc (Linux) has this; elsewhere nothing happens.

    Only the main thread's heap can hold blocks of any size. So with one CPU device
    programs are run by the thread that calls them (``jax_cpu_enable_async_dispatch``
    off), which on a CPU costs nothing: nobody else could compute meanwhile. Threads
    that read images keep heaps of their own. With several CPU devices, each of which
    has a thread, only the environment helps, ``MALLOC_ARENA_MAX=1``: one heap for all,
    which beside reading threads costs more than it saves, in locks and in searching
    among their small pieces.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    settings = {
        _MMAP_MAX: 0,  # large blocks from the heap too, not from mmap
        _TRIM_THRESHOLD: -1,  # never given back
    }
    if not all([mallopt(name, value) == 1 for name, value in settings.items()]):
        return False
    jax.config.update("jax_cpu_enable_async_dispatch", False)
    return True
