"""What commands share: what a process does once before one works, and the bar that it shows."""

import ctypes
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

# glibc's malloc.h: parameters of mallopt.
M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_MAX = -1, -2, -4


def keep_memory() -> bool:
    """Tell glibc to keep and reuse freed memory, and return whether it took it.

    By default it maps every large tensor anew and returns it to the system after use, so that each training step on
    the CPU pays for the page faults of all its temporaries: about a third of the time of a small model. Results do not
    change. Other systems, and users who tune malloc themselves through the environment, are left alone.
    """
    tuned = any(name.startswith("MALLOC_") or name == "GLIBC_TUNABLES" for name in os.environ)
    libc = ctypes.CDLL(None) if sys.platform == "linux" else None
    if tuned or not hasattr(libc, "gnu_get_libc_version"):
        return False
    never_trim, pad = -1, 256 * 2**20
    settings = ((M_MMAP_MAX, 0), (M_TRIM_THRESHOLD, never_trim), (M_TOP_PAD, pad))
    return all(libc.mallopt(name, value) for name, value in settings)  # type: ignore[union-attr]


@contextmanager
def progress_bar(description: str) -> Iterator[Callable[[int, int], None]]:
    """Show a bar on the terminal inside a `with` block, which receives the callback (done, to do) that moves it."""
    from rich import progress

    columns = (progress.BarColumn(), progress.MofNCompleteColumn(), progress.TimeRemainingColumn())
    with progress.Progress(progress.TextColumn("{task.description}"), *columns) as bar:
        task = bar.add_task(description, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
