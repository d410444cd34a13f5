"""What becomes of damaged and hostile files: checkpoints, logs, plans of runs, kept agents.

    python benchmarks/damage.py --files 1000

Files of a tiny life are damaged (bits flipped, blocks zeroed, truncated, filled with noise), made
by other versions, or written by an enemy who knows the format (checksums are right, the content is
not). Each is then read as a user would: the life goes on from its newest whole checkpoint, the log
is summarised, the plan of the run is read, the agent is loaded. Every reading ends in one of:

- refused: one sentence;
- fell back: told, and the checkpoint before it was used, exactly;
- unharmed: what was read is what had been written, exactly;
- accepted: (hostile content and logs only) it is as valid as any other.

Counted as failures: any other exception, something else read from a damaged checkpoint, and any
code run: an audit hook listens for processes, sockets, pickled classes and foreign modules.
"""

import argparse
import contextlib
import io
import json
import pickle
import random
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import hydra.utils
import torch
from omegaconf import OmegaConf
from safetensors.torch import save_file

from stillknows.agents.assembly import build_agent
from stillknows.agents.commands.verify import _differing
from stillknows.agents.configuration import compose_config
from stillknows.agents.lifetime import inquiry_of, live_lifetime
from stillknows.agents.persistence.checkpoint import FOLDER, Checkpoints, numbered, read_checkpoint
from stillknows.agents.persistence.container import write_tree
from stillknows.agents.persistence.keeping import CHECKPOINT, SCHEMA, KeptAgent, load_agent
from stillknows.agents.persistence.memory_files import AGENT
from stillknows.agents.persistence.resuming import PLAN, read_plan, write_plan
from stillknows.agents.persistence.stopping import Stop
from stillknows.agents.reports import log as logs
from stillknows.agents.reports.lives import summarise
from stillknows.agents.teaching.operations import OperationsLog

OPTIONS = (
    "debug=tiny",
    "rows=4",
    "stream.episodes=8",
    "stream.exam_episodes=4",
    "stream.tasks.tasks=[where_person,where_object]",
    "stream.tasks.sentences=6",
    "stream.tasks.questions=2",
    "stream.tasks.lag=0",
    "episodic_memory.bytes=20000",
    "checkpoint.every=2",
)
PARTS = ("agent", "learner", "strategy", "operations")
FORBIDDEN = (
    "os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "subprocess.Popen",
    "socket.connect", "pickle.find_class", "ctypes.dlopen",
)  # fmt: skip
TARGETS = (
    "os.system", "evil_module.Evil", "builtins.exec", "subprocess.Popen", "pickle.loads",
    "torch.load", "stillknows.agents.reports.log.LifetimeLog", "stillknows.agents.agent.torch.save",
)  # fmt: skip
JUNK: tuple[Any, ...] = (
    None, -1, 10**18, 1e308, float("nan"), "x" * 1000, "", [], [[[[[]]]]], {}, {"a": 1}, True,
    torch.zeros(0), torch.zeros(3, 3), torch.zeros(1, dtype=torch.int8), "${oc.env:HOME}",
)  # fmt: skip


class Evil:
    """What pickle would run."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Leave a mark."""
        return (exec, ("open('canary', 'w')",))


class Life:
    """A life that ended, and parts into which its checkpoints can be read."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.config = folder / "none", compose_config(OPTIONS)
        live_lifetime(self.config, self.folder, lambda *_: None)
        write_plan(folder / "run", {"both-seed0": self.config})
        self.plan = folder / "run" / PLAN
        from stillknows.agents.strategy import Lifetime

        tasks = hydra.utils.instantiate(self.config.stream.tasks, _convert_="all")
        agent = build_agent(self.config, tasks)
        learner = hydra.utils.instantiate(self.config.learner, agent, seed=0)
        inquiry = inquiry_of(self.config, agent, self.folder, tasks)
        settings = {"rows": 4, "exam_episodes": [4, 4], "seed": 0, "log": None, "inquiry": inquiry}
        strategy = Lifetime(agent=agent, learner=learner, **settings)
        self.parts = {"agent": KeptAgent(agent), "learner": learner, "strategy": strategy}
        self.parts |= {"operations": OperationsLog(self.folder, 0, agent)}
        self.truths = [read_checkpoint(path) for path in numbered(self.folder / FOLDER)]

    def go_on(self, folder: Path) -> str:
        """Read the newest whole checkpoint in a folder; return what came of it."""
        log = logs.LifetimeLog(folder, resume=True)
        try:
            with contextlib.redirect_stderr(io.StringIO()) as said:
                parts = {**self.parts, "log": log}
                found = Checkpoints(folder, self.config, parts, Stop()).restore_newest()
        finally:
            log.close()
        state = {name: part.state() for name, part in self.parts.items()}
        equal = [not list(_differing(_tree(state), _only(truth), "")) for truth in self.truths]
        if found and equal[1]:
            return "unharmed"
        if found and equal[0] and said.getvalue().count("\n") == 1:
            return "fell back"
        return "accepted" if found else "began anew"


def _only(tree: Any) -> Any:
    return {name: tree[name] for name in PARTS}


def _tree(value: Any) -> Any:
    """Return a tree as it is read: without tuples."""
    if isinstance(value, dict):
        return {key: _tree(part) for key, part in value.items()}
    return [_tree(part) for part in value] if isinstance(value, list | tuple) else value


# --- Damage, which takes bytes and gives bytes ---------------------------------------------------


def flip(content: bytearray, draw: random.Random, bits: int = 1) -> bytes:
    """Flip some bits."""
    for _ in range(bits):
        content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
    return bytes(content)


def flip_header(content: bytearray, draw: random.Random) -> bytes:
    """Flip a bit near the beginning, where names and sizes are."""
    content[draw.randrange(min(4096, len(content)))] ^= 1 << draw.randrange(8)
    return bytes(content)


def truncate(content: bytearray, draw: random.Random) -> bytes:
    """Lose the end."""
    return bytes(content[: draw.randrange(len(content))])


def zero(content: bytearray, draw: random.Random) -> bytes:
    """Lose a block, as a disk does."""
    begin = draw.randrange(len(content))
    content[begin : begin + 512] = bytes(len(content[begin : begin + 512]))
    return bytes(content)


def foreign(content: bytearray, draw: random.Random) -> bytes:
    """Put something else in the place."""
    saved = io.BytesIO()
    torch.save({"x": torch.zeros(2)}, saved)
    huge = (2**62).to_bytes(8, "little") + bytes(content[8:])
    kinds = (b"", b"\0" * 100, draw.randbytes(1000), pickle.dumps(Evil()), saved.getvalue(), huge)
    return draw.choice(
        (
            *kinds,
            b"[" * 100_000,
            b'{"event": 1}\n',
            b"9" * 10_000,
            "ü\udcff".encode("utf-8", "surrogatepass"),
        )
    )


DAMAGE: dict[str, Callable[[bytearray, random.Random], bytes]] = {
    "a bit flipped": flip,
    "64 bits flipped": lambda content, draw: flip(content, draw, 64),
    "a bit of the header flipped": flip_header,
    "truncated": truncate,
    "a block zeroed": zero,
    "something else": foreign,
}


# --- Enemies, who write files as this project does -----------------------------------------------


def spoil(tree: Any, draw: random.Random) -> Any:
    """Return a tree with something else at one place."""
    if isinstance(tree, dict) and tree and draw.random() < 0.9:
        key = draw.choice(list(tree))
        if draw.random() < 0.1:
            return {name: part for name, part in tree.items() if name != key}
        return {**tree, key: spoil(tree[key], draw)}
    if isinstance(tree, list) and tree and draw.random() < 0.8:
        place = draw.randrange(len(tree))
        return [*tree[:place], spoil(tree[place], draw), *tree[place + 1 :]]
    return draw.choice(JUNK)


def hostile_config(tree: Any, draw: random.Random) -> Any:
    """Return an agent whose settings name what they should not, or ask for all memory there is."""
    config = json.loads(json.dumps(tree["config"]))
    part = draw.choice(
        ["working_memory", "working_policy", "episodic_policy", "fuse", "controller"]
    )
    if draw.random() < 0.6:
        config[part] = {"_target_": draw.choice(TARGETS), "_args_": ["touch canary"]}
    else:
        name, value = draw.choice(
            [("controller", "width"), ("controller", "longest"), ("episodic_memory", "bytes")]
        )
        config[name][value] = 10 ** draw.randrange(9, 15)
    return {**tree, "config": config}


def spoil_event(line: bytes, draw: random.Random) -> bytes:
    """Return a line of a log with something else in one field."""
    event = json.loads(line)
    event.pop("checksum")
    values = [each for each in JUNK if not isinstance(each, torch.Tensor)]
    event[draw.choice(list(event))] = draw.choice([*values, 10**12, [10**12], [None], ["1"]])
    return logs._sealed(json.dumps(event))


# --- Readings ------------------------------------------------------------------------------------


def checkpoint(life: Life, folder: Path, draw: random.Random) -> tuple[str, str]:
    """Damage the newest checkpoint, or write one as an enemy would, and go on."""
    shutil.copytree(life.folder, folder)
    newest = numbered(folder / FOLDER)[-1]
    kind = draw.choice([*DAMAGE, *DAMAGE, "hostile content", "other schema"])
    if kind == "hostile content":
        write_tree(newest, spoil(life.truths[1], draw), CHECKPOINT)
    elif kind == "other schema":
        name = draw.choice(["stillknows checkpoint 2", SCHEMA, "", "x" * 10_000])
        write_tree(newest, life.truths[1], name)
    else:
        newest.write_bytes(DAMAGE[kind](bytearray(newest.read_bytes()), draw))
    came = life.go_on(folder)
    if came == "accepted" and kind != "hostile content":
        raise AssertionError("something else was read")
    return f"checkpoint, {kind}", came


def log(life: Life, folder: Path, draw: random.Random) -> tuple[str, str]:
    """Damage the log; then report on it, or go on."""
    shutil.copytree(life.folder, folder)
    path = folder / logs.FILE
    kind = draw.choice([*DAMAGE, "hostile content", "hostile content"])
    if kind == "hostile content":
        lines = path.read_bytes().splitlines(keepends=True)
        place = draw.randrange(len(lines))
        lines[place] = spoil_event(lines[place], draw)
        path.write_bytes(b"".join(lines))
    else:
        path.write_bytes(DAMAGE[kind](bytearray(path.read_bytes()), draw))
    if draw.random() < 0.5:
        return f"log, {kind}, went on", life.go_on(folder)
    summarise(logs.read(folder))
    return f"log, {kind}, reported", "accepted"


def plan(life: Life, folder: Path, draw: random.Random) -> tuple[str, str]:
    """Damage the plan of a run, and read it."""
    folder.mkdir()
    content = life.plan.read_bytes()
    kind = draw.choice([*DAMAGE, "hostile content", "hostile content"])
    if kind == "hostile content":
        told = spoil(json.loads(content), random.Random(draw.random()))
        text = json.dumps(told, default=lambda _: "x").encode()
        if draw.random() < 0.5:
            target = draw.choice(TARGETS)
            text = content.replace(b"stillknows.memory.slots.Slots", target.encode())
        (folder / PLAN).write_bytes(text)
    else:
        (folder / PLAN).write_bytes(DAMAGE[kind](bytearray(content), draw))
    read = read_plan(folder)
    same = OmegaConf.to_container(read["both-seed0"]) == json.loads(content)["lives"]["both-seed0"]
    return f"plan, {kind}", "unharmed" if same else "accepted"


def agent(life: Life, folder: Path, draw: random.Random) -> tuple[str, str]:
    """Damage a kept agent, or write one as an enemy would, and load it."""
    folder.mkdir()
    path = folder / AGENT
    kind = draw.choice([*DAMAGE, "hostile content", "hostile settings", "hostile settings"])
    whole = {**life.truths[1]["agent"], "told": None}
    if kind == "hostile settings":
        write_tree(path, hostile_config(whole, draw), SCHEMA)
    elif kind == "hostile content":
        write_tree(path, spoil(whole, draw), SCHEMA)
    else:
        content = bytearray((life.folder / AGENT).read_bytes())
        path.write_bytes(DAMAGE[kind](content, draw))
    load_agent(path)
    return f"agent, {kind}", "unharmed" if kind in DAMAGE else "accepted"


READINGS = (checkpoint, checkpoint, log, plan, agent)


def read_one(life: Life, folder: Path, draw: random.Random) -> tuple[str, str]:
    """Damage and read one file; return which, and what came of it."""
    reading = draw.choice(READINGS)
    try:
        return reading(life, folder, draw)
    except (ValueError, OSError) as error:
        whole = bool(str(error)) and "\n" not in str(error)
        return reading.__name__, "refused" if whole else f"FAILED: {type(error).__name__} {error!r}"
    except Exception as error:  # noqa: BLE001 (that there is none is what is measured)
        return reading.__name__, f"FAILED: {type(error).__name__}: {error}"


def listen(heard: list[str]) -> None:
    """Note every event that means that foreign code runs."""

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in FORBIDDEN or (event == "import" and "evil_module" in str(arguments)):
            heard.append(f"{event} {arguments!r:.80}")

    sys.addaudithook(hook)


def main() -> None:
    """Damage, read, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    came: Counter[tuple[str, str]] = Counter()
    heard: list[str] = []
    with tempfile.TemporaryDirectory() as temporary, contextlib.chdir(temporary):
        sys.path.insert(0, temporary)
        Path("evil_module.py").write_text("open('canary', 'w')\nclass Evil: pass\n")
        life = Life(Path(temporary) / "life")
        save_file({"x": torch.zeros(1)}, "warm.safetensors")
        load_agent(life.folder / AGENT)
        listen(heard)
        for number in range(given.files):
            draw = random.Random(f"{given.seed} {number}")
            folder = Path(temporary) / f"file{number}"
            which, what = read_one(life, folder, draw)
            came[which.partition(",")[0], what] += 1
            if what.startswith("FAILED"):
                print(f"file {number}: {which}: {what}", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
        canary = Path("canary").exists()
    outcomes = ["refused", "fell back", "unharmed", "accepted", "began anew"]
    print(f"| of | {' | '.join(outcomes)} | failed |\n|---|{'---|' * (len(outcomes) + 1)}")
    for which in ("checkpoint", "log", "plan", "agent"):
        counts = [str(came[which, what]) for what in outcomes]
        failed = sum(n for (w, what), n in came.items() if w == which and what not in outcomes)
        print(f"| {which} | {' | '.join(counts)} | {failed} |")
    print(f"\nCode that ran: {len(heard) + canary} {heard[:3]}")


if __name__ == "__main__":
    main()
