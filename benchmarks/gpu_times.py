"""Times of work on a GPU, what a profile shows of it, and what the card does at best."""

import statistics
from collections import Counter
from collections.abc import Callable

import torch

Work = Callable[[], object]
ACTIVITIES = [torch.profiler.ProfilerActivity.CPU, torch.profiler.ProfilerActivity.CUDA]
COUNTED = ("kernels", "waits", "copies to the host", "copies to the GPU")


def timed(work: Work) -> float:
    """Return milliseconds of the work, from event to event."""
    first, last = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    first.record()
    work()
    last.record()
    torch.cuda.synchronize()
    return first.elapsed_time(last)


def race(contenders: dict[str, Work], rounds: int) -> dict[str, list[float]]:
    """Time all in turns after two warm-ups; return milliseconds."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for turn in range(-2, rounds):
        for name, work in contenders.items():
            spent = timed(work)
            if turn >= 0:
                times[name].append(spent)
    return times


def quartiles(spent: list[float]) -> tuple[float, float, float]:
    """Return the quartiles and between them the median."""
    low, middle, high = statistics.quantiles(spent, n=4)
    return low, middle, high


def ceilings() -> dict[str, float]:
    """Return what the card does at best: bytes a second read and copied, operations a second."""
    numbers = torch.randn(1 << 28, device="cuda")  # a gigabyte, far more than the cache
    other, square = torch.empty_like(numbers), torch.randn(8192, 8192, device="cuda")
    works = {
        "copied, bytes/s": (lambda: other.copy_(numbers), 2 * numbers.nbytes),
        "read, bytes/s": (numbers.amax, numbers.nbytes),
        "float32, operations/s": (lambda: square @ square, 2 * 8192**3),
    }
    found = {}
    for name, (work, amount) in works.items():
        for _ in range(2):
            work()
        found[name] = 1000 * amount / min(timed(work) for _ in range(5))
    return found


def graphed(work: Work) -> Work:
    """Return what replays the work."""
    for _ in range(2):
        work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    return graph.replay


def counts(work: Work) -> dict[str, int]:
    """Return how many kernels, waits and copies to the host a profile shows."""
    work()
    torch.cuda.synchronize()
    with torch.profiler.profile(activities=ACTIVITIES) as profile:
        work()
    found: Counter[str] = Counter()
    for event in profile.events():
        name = event.name
        if name in ("cudaStreamSynchronize", "cudaEventSynchronize", "cudaMemcpy"):
            found["waits"] += 1
        elif name.startswith("Memcpy DtoH"):
            found["copies to the host"] += 1
        elif name.startswith("Memcpy HtoD"):
            found["copies to the GPU"] += 1
        elif event.device_type == torch.autograd.DeviceType.CUDA:
            found["kernels"] += 1
    return {name: found[name] for name in COUNTED}


def slowest(work: Work) -> list[str]:
    """Return the kernels that take longest, with their microseconds and number."""
    with torch.profiler.profile(activities=ACTIVITIES) as profile:
        work()
        torch.cuda.synchronize()
    spent = [row for row in profile.key_averages() if row.self_device_time_total]
    rows = sorted(spent, key=lambda row: -row.self_device_time_total)
    return [f"{r.key[:40]} {r.self_device_time_total:.0f} us ({r.count})" for r in rows[:12]]
