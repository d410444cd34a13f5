"""Checkpoints: files that hold a whole life at a boundary, written while it is lived.

A file is written beside its place, flushed and renamed (see `container.py`), and named after the
operation at which it was written: how many events the log held. The last few are kept,
and the best: that of the end of the examination with the highest average accuracy so far. One that
is broken is told, renamed, and the one before it is used.

A boundary is the end of an update, of an examination in one task, and of a training or a round of
examinations.
"""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from stillknows.agents.persistence.container import (
    cannot_write,
    expect_tree,
    read_version,
    write_tree,
)
from stillknows.agents.persistence.keeping import CHECKPOINT
from stillknows.agents.persistence.moved import as_before
from stillknows.agents.persistence.state import (
    Resumable,
    random_states,
    restore_random_states,
    state_of,
)
from stillknows.agents.persistence.stopping import Stop
from stillknows.agents.reports.log import versions
from stillknows.memory.stores.store import Through, at_once

FOLDER = "checkpoints"
BEST = "best.safetensors"
HARMLESS = (  # change no life
    *("workers", "checkpoint", "run", "arms", "seeds", "orders", "keep"),
    *("log", "on_trouble", "operations_keep"),
)
_FOREIGN = (LookupError, TypeError, AttributeError, RuntimeError, ValueError)

# What each schema that was ever written becomes in this version.
READERS: dict[str, Callable[[Any], Any]] = {CHECKPOINT: lambda tree: tree}


class Checkpoints:
    """The checkpoints of one life.

    Args:
        folder: of the life; they are in `checkpoints` below it.
        config: of the life; `config.checkpoint` says how often, and how many are kept.
        parts: of the life by name, in the order in which they are restored.
        stop: tells whether the life shall end.
        through: how a checkpoint is written where that may fail.

    Raises:
        ValueError: with one sentence, if the interval is no number, or a part cannot be kept.
    """

    def __init__(
        self,
        folder: Path,
        config: DictConfig,
        parts: Mapping[str, Resumable],
        stop: Stop,
        through: Through = at_once,
    ) -> None:
        self.folder, self.parts, self.stop = folder / FOLDER, parts, stop
        self.through = through
        self.every, self.seconds, self.keep = intervals_of(config)
        self.life, self.versions = life_of(config), versions()
        self.lived_before, self._began = 0.0, time.monotonic()
        self._boundaries, self._saved = 0, time.monotonic()
        if self.every:
            expect_keepable(parts)
            self._hold({})

    @property
    def lived(self) -> float:
        """Seconds of this life, in all processes that lived it."""
        return self.lived_before + time.monotonic() - self._began

    def passed(self, whole: bool = False, best: bool = False) -> None:
        """Take note of a boundary: save if it is time, and end if that was asked.

        Args:
            whole: a training or a round of examinations has ended.
            best: the examination was the best so far.

        Raises:
            Stopped: if the life shall end.
            OSError: with one sentence, if the disk is full or the folder cannot be written.
        """
        self._boundaries += 1
        late = 0 < self.seconds <= time.monotonic() - self._saved
        due = whole or late or self._boundaries >= self.every or self.stop.asked
        if self.every and due:
            self.save(best)
        self.stop.check()

    def save(self, best: bool = False) -> Path:
        """Write a checkpoint, and let go of those that are too old."""
        path = self.through(lambda: self._write(best))
        self._boundaries, self._saved = 0, time.monotonic()
        return path

    def _write(self, best: bool) -> Path:
        tree = {name: part.state() for name, part in self.parts.items()}
        about = {"life": self.life, "seconds": self.lived, "versions": self.versions, "best": best}
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise cannot_write(self.folder, error) from error
        path = self.folder / f"{tree['log']['events']:09d}.safetensors"
        write_tree(path, {**about, **tree, "random": random_states()}, CHECKPOINT)
        if best:
            self._mark_best(path)
        for old in numbered(self.folder)[: -self.keep]:
            old.unlink()
        self._hold(tree)
        return path

    def restore_newest(self) -> bool:
        """Let the life stand where its newest whole checkpoint left it.

        Returns:
            Whether there was one.

        Raises:
            ValueError: with one sentence, if there are some, and none is whole.
        """
        for half in self.folder.glob("*.part"):
            half.unlink()
        found = numbered(self.folder)[::-1]
        for path, following in zip(found, [*found[1:], None], strict=False):
            try:
                self._restore(path)
            except _FOREIGN as error:
                instead = "none is left" if following is None else f"{following.name} is used"
                print(f"stillknows: {_sentence(path, error)}; {instead}.", file=sys.stderr)
                path.rename(path.with_name(path.name + ".broken"))
            else:
                return True
        if found or list(self.folder.glob("*.broken")):
            raise ValueError(
                f"No checkpoint in {self.folder} is whole: delete {self.folder.parent} to live "
                "this life from its beginning."
            )
        return False

    def _restore(self, path: Path) -> None:
        tree = read_checkpoint(path)
        if tree["life"] != self.life:
            raise ValueError(f"{path} is of another life, or of another configuration")
        for name, part in self.parts.items():
            part.restore(tree[name])
        if tree["best"]:
            self._mark_best(path)
        self.lived_before = float(tree["seconds"])
        if tree["versions"] != self.versions:
            told = _differing(tree["versions"], self.versions)
            print(f"stillknows: {told}", file=sys.stderr)
        restore_random_states(tree["random"])

    def _hold(self, tree: Mapping[str, Any]) -> None:
        """Tell parts that have a past to which states they may have to go back."""
        for name, part in self.parts.items():
            if hasattr(part, "hold"):
                part.hold(tree.get(name), self.keep)

    def _mark_best(self, path: Path) -> None:
        """Give a checkpoint a second name, which stays when it is let go."""
        best = self.folder / BEST
        beside = best.with_name(best.name + ".part")
        beside.unlink(missing_ok=True)
        try:
            beside.hardlink_to(path)
        except OSError:  # not every file system has links
            shutil.copyfile(path, beside)
        beside.replace(best)
        beside.unlink(missing_ok=True)  # two names of one file are left as they are


def expect_keepable(parts: Mapping[str, Any]) -> None:
    """Raise a ValueError with one sentence if a part of a life holds what no file can keep."""
    for name, part in parts.items():
        try:
            expect_tree(state_of(part))
        except TypeError as error:
            raise ValueError(
                f"The {name} cannot be kept in a checkpoint ({str(error).rstrip('.')}): choose "
                "another, or switch checkpoints off with checkpoint.every=0."
            ) from error


def numbered(folder: Path) -> list[Path]:
    """Return the checkpoints in a folder, the oldest first."""
    return sorted(path for path in folder.glob("*.safetensors") if path.stem.isdigit())


def read_checkpoint(path: Path) -> Any:
    """Return what a checkpoint of any schema holds, as this version writes it.

    Raises:
        ValueError: with one sentence, if it is broken, or of no schema that was ever written.
    """
    schema, tree = read_version(path, *READERS)
    return READERS[schema](tree)


def intervals_of(config: DictConfig) -> tuple[int, float, int]:
    """Return after how many boundaries, and seconds, there is a checkpoint, and how many stay.

    Raises:
        ValueError: with one sentence, if one of them is not such a number.
    """
    chosen = config.checkpoint
    if not isinstance(chosen.every, int) or chosen.every < 0:
        raise ValueError(
            f"checkpoint.every={chosen.every} should be a whole number; 0 writes none."
        )
    if not isinstance(chosen.keep, int) or chosen.keep < 1:
        raise ValueError(f"checkpoint.keep={chosen.keep} should be a whole number, at least 1.")
    if not isinstance(chosen.seconds, int | float) or not chosen.seconds >= 0:
        raise ValueError(
            f"checkpoint.seconds={chosen.seconds} should be seconds, 0 for any number."
        )
    return chosen.every, chosen.seconds, chosen.keep


def life_of(config: DictConfig) -> str:
    """Return a name for what is lived: the same for the same options, but for harmless ones."""
    options: Any = as_before(OmegaConf.to_container(config, resolve=True))
    lived = {name: value for name, value in options.items() if name not in HARMLESS}
    return hashlib.blake2b(json.dumps(lived, sort_keys=True).encode(), digest_size=16).hexdigest()


def _sentence(path: Path, error: BaseException) -> str:
    """Return what is wrong with a checkpoint, without a full stop."""
    told = str(error).splitlines()[0] if str(error) else type(error).__name__
    named = told if str(path) in told else f"{path} does not fit this life ({told.rstrip('.')})"
    return named.rstrip(".")


def _differing(before: Mapping[str, str], now: Mapping[str, str]) -> str:
    changed = [f"{each} {before.get(each)}, now {now[each]}" for each in now]
    kept = [text for text, each in zip(changed, now, strict=True) if before.get(each) != now[each]]
    return (
        f"This life was saved with {'; '.join(kept)}: what follows may differ in its last digits."
    )
