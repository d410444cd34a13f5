"""Games of the package TextWorld as tasks that are acted in (extra `textworld`).

A game is a file in JSON, as the package's `game.save` writes it: neither its compiler nor its
interpreter is needed. What is seen is told in words from the facts of the game (`scene.py`), since
such a file holds no narrator. An action is the number of a command, among those that the games can
admit; the reward is the gain in the game's score, so that an episode in which all is done pays 1.

This file knows nothing of agents.
"""

import importlib
import os
import string
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from stillknows.envs.control import ControlTask, control_tasks
from stillknows.envs.scene import Scene, plain
from stillknows.envs.tasks import Task, suggest

ID = "stillknows/TextWorld-v0"
LONGEST = 4096
TEXT = spaces.Text(min_length=0, max_length=LONGEST, charset=string.printable)
DIALS = ("seed", "rooms", "objects", "quests", "quest_length")
_ENTRY = ("name", "games", "exam", *DIALS)
_ASKED = ("facts", "won", "lost", "objective", "max_score", "admissible_commands",
          "possible_admissible_commands", "game")  # fmt: skip

Seen = dict[str, str]


class TextWorld(gymnasium.Env[Any, Any]):
    """Games of TextWorld; an episode is one of them, drawn by the seed, from its beginning.

    An action is the number of a command in `commands`. One that is not admissible where the player
    stands is taken for the next in the list that is, from the last on to the first: so every action
    does something, and a number means the same in every game. Commands that change nothing (to
    look, to examine) are left out: all that is in view is told at every step.

    Args:
        games: a file in JSON or a folder of them, or several.
        commands_of: the games whose commands are numbered; `games` where left out. Tasks that
            name the same share their spaces.

    Attributes:
        commands: what can be chosen, sorted.

    Raises:
        ValueError: with one sentence, if the package is missing, or a file is missing, broken, no
            game, or a game in which nothing can be won.
    """

    metadata = {"render_modes": []}  # noqa: RUF012 (Gymnasium's own declaration)

    def __init__(
        self, games: str | Sequence[str], commands_of: str | Sequence[str] | None = None
    ) -> None:
        self.files = game_files(games)
        self._games = [_loaded(str(file), file.stat().st_mtime_ns) for file in self.files]
        named = self.files if commands_of is None else game_files(commands_of)
        self.commands = commands_in([*named, *self.files])
        self.observation_space = spaces.Dict(dict.fromkeys(("objective", "place", "carried"), TEXT))
        self.action_space = spaces.Discrete(len(self.commands))
        self._game: Any = None
        self._state: Any = None
        self._score, self._number = 0.0, 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Seen, dict[str, Any]]:
        """Begin a game."""
        super().reset(seed=seed)
        self._number = int(self.np_random.integers(len(self._games)))
        self._game = self._games[self._number].copy()  # before it is begun, so it is cheap
        self._state, self._score = self._game.reset(), 0.0
        return self._see(), self._info("")

    def step(self, action: int) -> tuple[Seen, float, bool, bool, dict[str, Any]]:
        """Give the command of a number; the game ends when it is won or lost.

        Raises:
            ResetNeeded: if no game is under way.
        """
        if self._state is None or self._state.won or self._state.lost:
            raise gymnasium.error.ResetNeeded("The game has ended: call reset() for the next.")
        command = self.chosen(action)
        self._state, score, over = self._game.step(command)
        reward = (score - self._score) / self._state.max_score
        self._score = score
        return self._see(), float(reward), bool(over), False, self._info(command)

    def chosen(self, action: int) -> str:
        """Return the command that an action gives where the player stands, "" if there is none."""
        here = set(self._state.admissible_commands)
        places = [number for number, command in enumerate(self.commands) if command in here]
        later = int(np.searchsorted(places, int(action)))
        return self.commands[places[later % len(places)]] if places else ""

    def _see(self) -> Seen:
        scene = Scene(self._state.facts)
        told = {
            "objective": plain(self._state.objective or ""),
            "place": scene.place(),
            "carried": scene.carried(),
        }
        return {name: text[:LONGEST] for name, text in told.items()}

    def _info(self, command: str) -> dict[str, Any]:
        return {
            "admissible_commands": tuple(self._state.admissible_commands),
            "command": command,
            "game": str(self.files[self._number]),
            "success": bool(self._state.won),
        }


def textworld_tasks(
    games: Sequence[str | Mapping[str, Any]],
    folder: str = "games",
    max_episode_steps: int = 50,
) -> list[Task | ControlTask]:
    """Return a task for each game, or folder of games; all have the same spaces.

    Args:
        games: files in JSON, folders of them, or mappings: `games` (a file, a folder or a list of
            them), or the dials of a game that is generated (`seed`, and if wanted `rooms`,
            `objects`, `quests`, `quest_length`); with `name` and `exam` (what is examined in)
            where wanted.
        folder: where generated games are written, and found again.
        max_episode_steps: an episode is cut after so many.

    Raises:
        ValueError: with one sentence, if an entry is none of these or a game is not to be had.
    """
    entries = [_entry({"games": each} if isinstance(each, str) else dict(each), Path(folder))
               for each in games]  # fmt: skip
    every = [file for entry in entries for key in ("games", "exam") for file in entry[key]]
    tasks = [
        {
            "id": ID,
            "name": entry["name"],
            "games": entry["games"],
            "exam": {"games": entry["exam"]},
            "commands_of": every,
        }
        for entry in entries
    ]
    return control_tasks(tasks, max_episode_steps)


def write_game(
    folder: Path,
    *,
    seed: int,
    rooms: int = 4,
    objects: int = 6,
    quests: int = 1,
    quest_length: int = 4,
) -> Path:
    """Write a generated game into a folder as JSON, if it is not there; return its file.

    Args:
        folder: made if there is none.
        seed: the same dials and the same seed make the same game.
        rooms: of its world.
        objects: at least so many.
        quests: each pays as much, and all of them win it.
        quest_length: commands that a quest takes.

    Raises:
        ValueError: if a dial is below its least value, or the package makes no such game.
    """
    dials = dict(zip(DIALS, (seed, rooms, objects, quests, quest_length), strict=True))
    for name, given in dials.items():
        least = int(name != "seed")
        if isinstance(given, bool) or not isinstance(given, int) or given < least:
            raise ValueError(f"{name}={given} of a game: give a whole number from {least} on.")
    told = "-".join(f"{name}{given}" for name, given in dials.items())
    file = folder / f"{told}.json"
    if not file.exists():
        folder.mkdir(parents=True, exist_ok=True)
        half = folder / f".{told}.{os.getpid()}"
        _generated(dials).save(str(half))
        half.replace(file)  # at once, as lives may run side by side
    return file


def game_files(games: str | Sequence[str]) -> list[Path]:
    """Return the files that are named: a folder stands for all that it holds, by name.

    Raises:
        ValueError: if one is missing or not in JSON, or a folder holds none.
    """
    found = []
    for each in map(Path, [games] if isinstance(games, str) else games):
        inside = sorted(each.glob("*.json")) if each.is_dir() else [each]
        if not inside:
            raise ValueError(f"The folder {each} holds no game: games are files NAME.json.")
        found += inside
    if not found:
        raise ValueError("No games are named: give files in JSON, or folders of them.")
    for file in found:
        if not file.is_file():
            raise ValueError(f"There is no game {file}: name a file in JSON, or a folder of them.")
        if file.suffix != ".json":
            raise ValueError(
                f"{file} is not in JSON: games that are compiled are not played here; save one by "
                'game.save("NAME.json").'
            )
    return found


def commands_in(files: Sequence[Path]) -> tuple[str, ...]:
    """Return every command that may ever change something in one of the games, sorted."""
    found: set[str] = set()
    for file in dict.fromkeys(files):
        state = _loaded(str(file), file.stat().st_mtime_ns).copy().reset()
        verbs = _verbs(state.game.kb)
        found |= {c for c in state.possible_admissible_commands if c.split()[0] in verbs}
    return tuple(sorted(found))


def _verbs(knowledge: Any) -> set[str]:
    """Return the first words of commands whose rules change something."""
    templates = knowledge.inform7_commands
    rules = [rule for rule in knowledge.rules.values() if rule.name in templates]
    return {templates[rule.name].split()[0] for rule in rules if rule.added or rule.removed}


@lru_cache(maxsize=1024)
def _loaded(file: str, written: int) -> Any:
    """Return a game that nobody has begun; `written` is when the file was, in ns.

    Raises:
        ValueError: if it is no game, or nothing can be won in it.
    """
    package = _package()
    infos = package.EnvInfos(**dict.fromkeys(_ASKED, True))
    try:
        game = package.start(file, infos)
        state = game.copy().reset()
        paid, over = float(state.max_score), bool(state.won or state.lost)
        Scene(state.facts).place()
    except Exception as error:  # noqa: BLE001 (whatever the package raises at what is no game)
        raise ValueError(
            f"{file} is no game of TextWorld ({type(error).__name__}: {error}): save one by "
            'game.save("NAME.json").'
        ) from None
    if over or not 0 < paid < float("inf"):
        raise ValueError(f"{file} is a game in which nothing can be won: it needs a quest.")
    return game


def _generated(dials: Mapping[str, int]) -> Any:
    options = _package().GameOptions()
    options.seeds, options.nb_rooms = dials["seed"], dials["rooms"]
    options.nb_objects, options.quest_length = dials["objects"], dials["quest_length"]
    options.nb_parallel_quests = dials["quests"]
    try:
        return importlib.import_module("textworld.generator").make_game(options)
    except Exception as error:  # noqa: BLE001 (whatever the package raises)
        said = ", ".join(f"{name}={given}" for name, given in dials.items())
        raise ValueError(f"TextWorld makes no game of {said}: {error}.") from None


def _entry(entry: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Return the name of a task, and the files it is trained and examined in."""
    for key in entry:
        if key not in _ENTRY:
            raise ValueError(f"A task of games has no {key}. {suggest(str(key), _ENTRY)}")
    dials = {key: entry[key] for key in DIALS if key in entry}
    if ("games" in entry) == ("seed" in entry) or ("games" in entry and dials):
        raise ValueError(f"The task {entry} needs games (files), or a seed to generate one by.")
    named = entry["games"] if "games" in entry else str(write_game(folder, **dials))
    first = named if isinstance(named, str) else [*named, ""][0]
    games, exam = game_files(named), game_files(entry.get("exam", named))
    return {
        "name": str(entry.get("name", Path(first).stem)),
        "games": [str(file) for file in games],
        "exam": [str(file) for file in exam],
    }


def _package() -> Any:
    try:
        return importlib.import_module("textworld")
    except ModuleNotFoundError as error:
        raise ValueError(
            f"Games of TextWorld need {error.name}: pip install 'stillknows[textworld]', or the "
            "lighter way of docs/environments.md."
        ) from None
