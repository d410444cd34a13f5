"""Work in several processes, each with one thread; all end when the process that began them has."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from tqdm import tqdm

from stillknows.agents.persistence.stopping import PATIENCE, SIGNALS, Stopped


def run_all(
    work: Callable[..., Any],
    jobs: Mapping[str, tuple[Any, ...]],
    workers: int | None,
    finished: Callable[[str, BaseException | None], None] | None = None,
) -> None:
    """Call `work(*arguments, place)` for every job.

    Args:
        work: a function of a module; it returns nothing, or the number of the signal by which it
            was stopped.
        jobs: names and arguments; a job's place among them is the line of its progress bar.
        workers: processes at a time; None for one a core.
        finished: hears the name of each job that ended, and what it raised; None: the first job
            that raises ends all.

    Raises:
        Stopped: if this process, or one of the others, was asked to stop; they are asked too, and
            have ended.
        ChildProcessError: with one sentence, if a process was killed.
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
        try:
            with _heard():
                _wait(futures, finished)
        except BrokenProcessPool as error:
            raise ChildProcessError("A process was killed, or ran out of memory.") from error
        except BaseException:
            _stop(pool)
            raise


def _wait(
    futures: Mapping[Any, str], finished: Callable[[str, BaseException | None], None] | None
) -> None:
    for future in as_completed(futures):
        error = future.exception()
        if finished is not None and not isinstance(error, BrokenProcessPool):
            if error is None and future.result():
                raise Stopped(future.result())
            finished(futures[future], error)
            continue
        stopped = future.result()
        if stopped:
            raise Stopped(stopped)
        if not sys.stderr.isatty():
            print(f"done: {futures[future]}", file=sys.stderr)


@contextmanager
def _heard() -> Iterator[None]:
    """Let signals raise `Stopped`, once; then they are no longer heard."""

    def hear(number: int, frame: FrameType | None) -> None:
        for each in SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise Stopped(number)

    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, hear) for each in SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(pool: ProcessPoolExecutor) -> None:
    """Ask all processes to stop, and see that they do."""
    processes = multiprocessing.active_children()
    for process in processes:
        process.terminate()
    pool.shutdown(wait=False, cancel_futures=True)
    for process in processes:
        process.join(PATIENCE + 5)
        process.kill()


def cores() -> int:
    """Return how many processors this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _begin_process(lock: Any) -> None:
    """Use one thread, share the bars' lock, and end when the process that started this one has."""
    torch.set_num_threads(1)
    tqdm.set_lock(lock)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # from a terminal all hear it: the first tells us
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
