"""Work in several processes, each with one thread; all end when the process that began them has."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

import torch
from tqdm import tqdm


def run_all(
    work: Callable[..., Any], jobs: Mapping[str, tuple[Any, ...]], workers: int | None
) -> None:
    """Call `work(*arguments, place)` for every job.

    Args:
        work: a function of a module.
        jobs: names and arguments; a job's place among them is the line of its progress bar.
        workers: processes at a time; None for one a core.
    """
    context = multiprocessing.get_context("spawn")
    at_a_time = min(workers or cores(), len(jobs))
    with ProcessPoolExecutor(
        at_a_time, context, initializer=_begin_process, initargs=(context.RLock(),)
    ) as pool:
        futures = {
            pool.submit(work, *arguments, place): name
            for place, (name, arguments) in enumerate(jobs.items())
        }
        for future in as_completed(futures):
            future.result()
            if not sys.stderr.isatty():
                print(f"done: {futures[future]}", file=sys.stderr)


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin_process(lock: Any) -> None:
    """Use one thread, share the bars' lock, and end when the process that started this one has."""
    torch.set_num_threads(1)
    tqdm.set_lock(lock)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
