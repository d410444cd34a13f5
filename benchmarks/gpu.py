"""Speed on a GPU: DNC chunks as CUDA graphs, exact neighbours, the lifelong store, and the waits.

    python benchmarks/gpu.py --out FOLDER                 # all of it, two to three minutes
    python benchmarks/gpu.py --out FOLDER --parts dnc-G,knn --rounds 5

Needs PyTorch with CUDA and Triton, and nothing else. Each part is a process of its own: all get
ready at once (they compile), and then measure one after another; after `--patience` seconds those
that are ready begin. What is known is printed and written at once. Times are CUDA events around the
whole work, so what the host takes counts; contenders are interleaved after a warm-up; medians and
quartiles. Beside each figure stands the floor: the fewest bytes over the bandwidth, and operations
over the rate, that were measured on the same card in the same part. Prints Markdown, and writes
it and `results.json` to FOLDER.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import torch
from gpu_parts import part_of

PARTS = ("dnc-G", "dnc-S", "dnc-M", "dnc-L", "knn", "store")


def take_part(name: str, rounds: int, out: Path) -> None:
    """Get ready, say so, wait for the word, and measure."""
    part = part_of(name, rounds)
    next(part)
    torch.cuda.synchronize()
    print("ready", flush=True)
    if sys.stdin.readline().strip() != "go":
        return
    for result in part:  # the first may say less than the last
        (out / f"{name}.json").write_text(json.dumps(result))


class Child:
    """The process of a part."""

    def __init__(self, name: str, rounds: int, out: Path) -> None:
        self.name, self.file, self._log = name, out / f"{name}.json", out / f"{name}.log"
        self.file.unlink(missing_ok=True)
        command = [sys.executable, __file__, "--rounds", str(rounds), "--out", str(out)]
        pipe = subprocess.PIPE
        with self._log.open("w") as log:
            self._process = subprocess.Popen(
                [*command, "--part", name], stdin=pipe, stdout=pipe, stderr=log, text=True
            )
        self._ready = threading.Thread(target=self._process.stdout.readline, daemon=True)
        self._ready.start()

    def ready(self, seconds: float | None = None) -> bool:
        """Wait until it is ready or has failed, for so many seconds; return whether it is."""
        self._ready.join(seconds)
        return not self._ready.is_alive()

    def measure(self) -> bool:
        """Let it measure; return whether it went well."""
        self.ready()
        if self._process.poll() is None:
            self._process.communicate("go\n")
        if failed := bool(self._process.wait() or not self.file.exists()):
            print(f"\n{self.name} failed:\n{self._log.read_text()[-3000:]}", flush=True)
        return not failed


def conduct(names: list[str], rounds: int, out: Path, patience: float) -> int:
    """Let all parts get ready at once and measure one by one; return how many failed."""
    begun, results, failed = time.perf_counter(), {}, 0
    children = [Child(name, rounds, out) for name in names]
    for child in children:  # nobody compiles while another measures
        child.ready(max(0.0, begun + patience - time.perf_counter()))
    late = [child.name for child in children if not child.ready(0)]
    print(f"{time.perf_counter() - begun:.0f} s, not ready: {late or 'none'}.", flush=True)
    while children:
        child = next((child for child in children if child.ready(0)), None)
        if child is None:
            time.sleep(0.1)
            continue
        children.remove(child)
        failed += not child.measure()
        if not child.file.exists():
            continue
        results[child.name] = json.loads(child.file.read_text())
        print("\n" + "\n".join(results[child.name]["markdown"]), flush=True)
        print(f"({time.perf_counter() - begun:.0f} s)", flush=True)
        (out / "results.json").write_text(json.dumps(results))
        tables = ["\n".join(result["markdown"]) for result in results.values()]
        (out / "gpu.md").write_text("\n\n".join([_machine(results), *tables]) + "\n")
    print(f"\n{_machine(results)}")
    return failed


def _machine(results: dict[str, Any]) -> str:
    """Return card and versions, with what it does at best."""
    best = next(iter(results.values()), {}).get("card", {})
    text = ", ".join(f"{name} {value:.3g}" for name, value in best.items())
    return f"{torch.cuda.get_device_name()}, torch {torch.__version__}; {text}"


def main() -> None:
    """Read the options and conduct the parts, or take one."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=Path, required=True, help="folder of the results")
    parser.add_argument("--parts", default=",".join(PARTS), help=f"which of {', '.join(PARTS)}")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--patience", type=float, default=600, help="seconds to get ready in")
    parser.add_argument("--part", help="take this part; for the program itself")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        parser.error("there is no CUDA device here.")
    options.out.mkdir(parents=True, exist_ok=True)
    if options.part:
        return take_part(options.part, options.rounds, options.out)
    names = options.parts.split(",")
    sys.exit(conduct(names, options.rounds, options.out, options.patience))


if __name__ == "__main__":
    main()
