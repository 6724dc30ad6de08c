"""Jobs done by other processes, here or on a cluster, whatever happens to those processes."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, Executor, Future, ProcessPoolExecutor, wait
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TypeVar

import torch

Job = TypeVar("Job")
Result = TypeVar("Result")
Work = Callable[[Job, tuple[int, ...], Path | None], Result]
CONNECT = 10  # seconds to wait for a scheduler


def run_all(work: Work[Job, Result], jobs: Sequence[Job], workers: int = 0, cluster: str = "") -> Iterator[Result]:
    """Do all jobs and yield their results in any order.

    A process that dies (out of memory, a crash inside a parser) takes its pool along. The jobs that it may have been at
    are done again, each in a process of its own on this machine, which notes where it is: so only the guilty item of
    the guilty job is left out.

    Args:
        work: called as `work(job, left_out, marker)`: the numbers of the items of the job not to touch, and the file
            where it writes the number of the item that it is about to touch; None for nowhere. At the top of a module.
        jobs: what to do.
        workers: processes on this machine; 0 for none but this one.
        cluster: address of a Dask scheduler, instead; its workers need the same files at the same paths.
    """
    if not workers and not cluster:
        yield from (work(job, (), None) for job in jobs)
        return
    waiting, window = list(jobs)[::-1], len(jobs) if cluster else workers + 1
    while waiting:
        running: dict[Future[Result], Job] = {}
        died: list[Job] = []
        with _cluster(cluster) if cluster else _local(workers) as (pool, deaths):
            while (waiting and not died) or running:
                while waiting and not died and len(running) < window:
                    job = waiting.pop()
                    try:
                        running[pool.submit(work, job, (), None)] = job
                    except deaths:
                        died.append(job)
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    job = running.pop(future)
                    try:
                        result = future.result()
                    except deaths:
                        died.append(job)
                    else:
                        yield result
        yield from (_alone(work, job) for job in died)


def _alone(work: Work[Job, Result], job: Job) -> Result:
    """Do a job in a process of its own, again without the item it died of where it dies."""
    left_out: tuple[int, ...] = ()
    with TemporaryDirectory() as place:
        marker = Path(place) / "item"
        while True:
            with _pool(1) as pool:
                try:
                    return pool.submit(work, job, left_out, marker).result()
                except BrokenExecutor:
                    item = int(marker.read_text()) if marker.exists() else -1
            if item < 0 or item in left_out:
                raise OSError("a process that reads files died before it began; is there enough memory?")
            left_out += (item,)


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _pool(workers: int) -> Executor:
    # As in PyTorch's own loaders: a fork starts at once; with one thread each, the children need none of the parent's.
    context = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
    return ProcessPoolExecutor(workers, mp_context=context, initializer=_begin)


def _begin() -> None:
    """Start a worker: one thread for its work, and one that ends it with its parent, whose locks it has inherited."""
    torch.set_num_threads(1)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@contextmanager
def _local(workers: int) -> Iterator[tuple[Executor, type[BaseException]]]:
    with _pool(workers) as pool:
        yield pool, BrokenExecutor


@contextmanager
def _cluster(address: str) -> Iterator[tuple[Executor, type[BaseException]]]:
    try:
        from distributed import Client, KilledWorker
    except ImportError:
        raise ValueError("a cluster needs Dask: pip install 'pointmadi[cluster]'") from None
    try:
        client = Client(address, timeout=CONNECT)
    except (OSError, ValueError) as error:
        reason = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(f"no Dask scheduler answers at {address}: {reason}") from None
    with client, client.get_executor(pure=False) as pool:
        yield pool, KilledWorker
