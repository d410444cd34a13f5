"""Runs that go on: the plan of a run, and `resume=RUN` of `stillknows train` and of `solve`.

A run is planned before it is lived: `run.json` in its folder holds the configuration of every
life (or solver). Lives that have ended are left alone, those that were cut go on, the others begin.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from stillknows.agents.configuration import expect_workers
from stillknows.agents.persistence.container import cannot_write, write_text
from stillknows.agents.persistence.moved import as_now
from stillknows.agents.persistence.stopping import Stopped
from stillknows.agents.persistence.trust import refuse_foreign
from stillknows.agents.reports.log_parts import FILE
from stillknows.agents.reports.protocol import flat

PLAN = "run.json"
LIVES = "lives.json"  # of one stream of a sweep
SCHEMA = 1
SEEDED = "${seed}"
MAY_CHANGE = (
    *("workers", "checkpoint.every", "checkpoint.seconds", "checkpoint.keep"),
    *("on_trouble", "log.part"),
)
_LAST = 1 << 16  # bytes at a log's end in which its last event is looked for


class Run(NamedTuple):
    """A run: its folder, the configurations of its lives by their folders' names, and workers."""

    folder: Path
    lives: dict[str, DictConfig]
    workers: int | None


def write_plan(run: Path, lives: Mapping[str, DictConfig]) -> None:
    """Write down what a run is going to live.

    Raises:
        OSError: with one sentence, if that cannot be written.
    """
    plan = {name: OmegaConf.to_container(each, resolve=True) for name, each in lives.items()}
    seeded = {name: _seeded(each) for name, each in lives.items()}
    whole = {"schema": SCHEMA, "lives": plan, "seeded": seeded}
    try:
        run.mkdir(parents=True)
        write_text(run / PLAN, json.dumps(whole, indent=1) + "\n")
    except OSError as error:
        raise cannot_write(run / PLAN, error) from error


def read_plan(run: Path, allow: Sequence[str] = ()) -> dict[str, DictConfig]:
    """Return the configurations of the lives of a run by their folders' names.

    Args:
        run: its folder.
        allow: modules besides this project's whose classes the plan may name.

    Raises:
        ValueError: with one sentence, if there is no plan, or it is broken or names what is not
            allowed.
    """
    path = run / PLAN
    if not path.is_file():
        raise ValueError(f"{run} is no run that can go on: it holds no {PLAN}.")
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        if plan["schema"] != SCHEMA:
            raise ValueError(f"its schema is {plan['schema']}, and this version reads {SCHEMA}")
        lives = {str(name): as_now(each) for name, each in plan["lives"].items()}
        seeded = dict(plan.get("seeded", {}))
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"{path} is broken or foreign ({_first_line(error)}).") from error
    try:
        for each in lives.values():
            refuse_foreign(each, allow, run=True)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    try:
        made = {name: DictConfig(OmegaConf.create(each)) for name, each in lives.items()}
        for name, each in made.items():
            _follow_seed(each, seeded.get(name, ()))
        if not made or any(name != folder_name(each) for name, each in made.items()):
            raise ValueError("its lives have other names than their folders")
    except (TypeError, ValueError, OmegaConfBaseException) as error:
        raise ValueError(f"{path} is broken or foreign ({_first_line(error)}).") from error
    return made


def folder_name(config: DictConfig) -> str:
    """Return the name of a life's folder: of its arm, seed and order; it leads nowhere else."""
    order = f"-order{config.order}" if config.get("order") else ""
    return f"{slug(config.name)}-seed{config.seed}{order}"


def slug(name: str) -> str:
    """Return a name that a folder can have."""
    return re.sub(r"[^A-Za-z0-9._]+", "-", name)


def as_planned(lives: Sequence[Path]) -> list[Path]:
    """Return folders of lives run by run, each run's in the order in which they were asked for."""
    runs = list(dict.fromkeys(life.resolve().parent for life in lives))
    planned = [run / name for run in runs for name in [*_planned(run), ""]]  # "": all others
    places = {path: place for place, path in enumerate(planned)}
    found = {life: life.resolve() for life in lives}
    return sorted(lives, key=lambda life: places.get(found[life], places[found[life].parent]))


def _planned(run: Path) -> list[str]:
    """Return the names of a run's lives, as far as it can be known."""
    for file in (PLAN, LIVES):
        try:
            return [Path(name).name for name in json.loads((run / file).read_bytes())["lives"]]
        except (OSError, LookupError, TypeError, ValueError, RecursionError):
            continue
    return []


def write_order(run: Path, lives: Sequence[str]) -> None:
    """Note in which order the lives of a folder were asked for, where it is no run of its own."""
    run.mkdir(parents=True, exist_ok=True)
    write_text(run / LIVES, json.dumps({"lives": list(lives)}) + "\n")


def resumed(overrides: Sequence[str], command: str = "train") -> Run:
    """Return the run that shall go on.

    Args:
        overrides: `resume=RUN`, and such options as change nothing that is lived.
        command: that it is of.

    Raises:
        ValueError: with one sentence, for any other option, or a run that cannot go on.
    """
    for each in overrides:
        if each.partition("=")[0] not in ("resume", "allow", *MAY_CHANGE):
            raise ValueError(
                f"{each}: a run goes on with the configuration that it has; only "
                f"{', '.join(MAY_CHANGE)} and allow may be given with resume."
            )
    given = OmegaConf.from_dotlist(list(overrides))
    folder = Path(str(given.resume))
    lives = read_plan(folder, [str(each) for each in given.get("allow") or ()])
    for config in lives.values():
        if (begun := config.get("command", "train")) != command:
            raise ValueError(f"{folder} goes on by `stillknows {begun} resume={folder}`.")
        config.merge_with({k: v for k, v in given.items() if k not in ("resume", "allow")})
        expect_workers(config)
    return Run(folder, lives, next(iter(lives.values())).workers)


def has_ended(folder: Path) -> bool:
    """Return whether the life in a folder has come to its end."""
    path = folder / FILE
    if not path.is_file():
        return False
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LAST))
        lines = file.read().splitlines()
    try:
        last: Any = json.loads(lines[-1]) if lines else {}
    except ValueError:
        return False
    return isinstance(last, dict) and last.get("event") == "clock"


@contextmanager
def goes_on(run: Path, command: str = "train") -> Iterator[None]:
    """Say how to go on, whatever ends a run before its end."""
    how = f"`stillknows {command} resume={run}` goes on from where it was saved"
    try:
        yield
    except Stopped as stop:
        raise Stopped(stop.number, f"stopped; {how}.") from stop
    except OSError as error:
        raise OSError(f"{error} When that is mended, {how}.") from error


def _seeded(config: DictConfig) -> list[str]:
    """Return the options that are the seed's, as they are written."""
    written: Any = OmegaConf.to_container(config, resolve=False)
    return [name for name, value in flat(written, "").items() if value == SEEDED]


def _follow_seed(config: DictConfig, names: Sequence[str]) -> None:
    """Let options be the seed's again: what a life is averaged with depends on it."""
    for name in map(str, names):
        if OmegaConf.select(config, name) == config.seed:
            OmegaConf.update(config, name, SEEDED)


def _first_line(error: BaseException) -> str:
    lines = str(error).splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__
