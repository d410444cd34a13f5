"""Writes stories of the microworld many at a time, in C++ where there is a compiler.

`write_story` of `stories.py` says what a story is; `cpp/microworld.cpp` draws and tells the same,
and hands back numbers of lines. This file makes the table of all lines, and puts them side by side.

Letters: B rows, S lines of the longest story, Q questions, K supports, X questions of all rows.
"""

import ctypes
import functools
from collections.abc import Iterable
from itertools import accumulate, product
from pathlib import Path

import numpy as np

from stillknows.envs import world
from stillknows.envs.life import Life
from stillknows.envs.questions import TASKS
from stillknows.envs.stories import Dials, write_story
from stillknows.envs.text import story_of
from stillknows.envs.turns import Sheet
from stillknows.envs.world import DIRECTIONS, NUMBERS, plain
from stillknows.memory.compiled import load, pointers, wholes

_FOLDER = Path(__file__).parent / "cpp"
SOURCES = [_FOLDER / "microworld.cpp"]
_HEADERS = [_FOLDER / f"{name}.h" for name in ("world", "questions", "twister", "digest")]
_KINDS, _ASKING = 10, 7  # of lines, as `_lines` has them; where those begin that ask
_MOST = 12  # people, places and objects that microworld.cpp has room for
_NOBODY = -1
_WAYS = ("", *DIRECTIONS)
TRIED = np.array([0, 7, 2**32, 2**62 + 1])  # keys of stories that are written both ways at first
_pointer, _whole, _real = ctypes.c_void_p, ctypes.c_int64, ctypes.c_double
SIGNATURES = {
    "write_stories": [_pointer, _whole, _whole, _pointer, _pointer, *[_whole] * 3, _pointer]
}


class _Dials(ctypes.Structure):
    """`Dials` of microworld.cpp."""

    _fields_ = (
        *wholes("task people places objects longest two_way beginning exam tells lag facts start"),
        ("distractors", _real),
        ("carry", _real),
        ("first_line", _whole * _KINDS),
        ("trees", ctypes.c_char_p),
        *pointers("ends"),
    )


class _Written(ctypes.Structure):
    """`Written` of microworld.cpp."""

    _fields_ = pointers("lines answers tellers supports steps")


@functools.cache
def library() -> ctypes.CDLL | None:
    """Return the compiled file, None where there is none; the first call may compile it."""
    return load("microworld", SOURCES, _HEADERS, SIGNATURES)


@functools.lru_cache(maxsize=32)
def writer_of(dials: Dials) -> "Writer | None":
    """Return who writes stories with some dials; None without a compiler.

    There is none either where a few stories are not what `write_story` makes of them, as in a
    Python that draws otherwise, or where it finds none.
    """
    if library() is None or max(dials.people, dials.places, dials.objects) > _MOST:
        return None
    writer, episodes_B = Writer(dials), np.arange(len(TRIED)) + dials.task_start
    try:
        sheet = writer.write(TRIED, episodes_B, dials.task_start)
        tried = zip(TRIED.tolist(), episodes_B.tolist(), strict=True)
        told = [write_story(key, episode, dials, dials.task_start) for key, episode in tried]
    except ValueError:
        return None
    return writer if [story_of(sheet, row) for row in range(len(told))] == told else None


class Writer:
    """Writes stories with some dials.

    Args:
        dials: see `stillknows.envs.stories.Dials`.
    """

    def __init__(self, dials: Dials) -> None:
        self.dials = dials
        kinds = _lines(dials)
        trees = [tree for kind in kinds for tree in kind]
        self._trees = np.array(trees, dtype=object)
        self._sentences = np.array(list(map(plain, trees)), dtype=object)
        self._first = [0, *accumulate(map(len, kinds))][:_KINDS]
        self._ends = np.cumsum(list(map(len, trees)), dtype=np.int64)
        self._most_supports = max(3, dials.objects, dials.route_length)
        facts = range(dials.lifetime_facts if dials.tells else 0)
        self._of_life = list(map(dials.facts.answer, facts))
        self._routes = _Routes()
        self._told = _Dials(
            list(TASKS).index(dials.task), dials.people, dials.places, dials.objects,
            dials.route_length, dials.two_way, dials.beginning, dials.split == "exam", dials.tells,
            dials.lag, dials.lifetime_facts, dials.task_start, dials.distractors, dials.carry,
            (_whole * _KINDS)(*self._first), "".join(trees).encode(), self._ends.ctypes.data,
        )  # fmt: skip

    def write(self, keys_B: np.ndarray, episodes_B: np.ndarray, lived: int) -> Sheet:
        """Return the stories of some keys and episodes, as `write_story` writes them.

        Raises:
            ValueError: as `write_story` does.
        """
        rows_B4 = self._rows(episodes_B)
        questions_B = rows_B4[:, 2]
        lengths_B = rows_B4[:, 1] + questions_B
        shape = len(keys_B), int(questions_B.max())
        lines_BS = np.full((len(keys_B), lengths_B.max()), self._first[-1])
        answers_BQ, tellers_BQ = np.zeros(shape, dtype=np.int64), np.full(shape, _NOBODY)
        supports_BQ = np.zeros(shape, dtype=np.int32)
        steps_BQK = np.zeros((*shape, self._most_supports), dtype=np.int32)
        written = (lines_BS, answers_BQ, tellers_BQ, supports_BQ, steps_BQK)
        keys_B = keys_B.astype(np.uint64)
        done = library().write_stories(  # type: ignore[union-attr]
            ctypes.byref(self._told), lived, len(keys_B), keys_B.ctypes.data, rows_B4.ctypes.data,
            lines_BS.shape[1], *steps_BQK.shape[1:],
            ctypes.byref(_Written(*(array.ctypes.data for array in written))),
        )  # fmt: skip
        if done < len(keys_B):
            write_story(int(keys_B[done]), int(episodes_B[done]), self.dials, lived)  # says why
        sheet = Sheet(
            lines_BS,
            self._sentences,
            self._trees,
            (lines_BS >= self._first[_ASKING]) & (lines_BS < self._first[-1]),
            lengths_B,
            episodes_B,
            self._answers(answers_BQ),
            _supports(episodes_B, supports_BQ, steps_BQK),
            np.zeros(shape, dtype=bool),
        )
        sheet.targets_BQ[np.arange(shape[1]) >= questions_B[:, None]] = None
        self._answer_of_life(tellers_BQ, sheet)
        return sheet

    def _rows(self, episodes_B: np.ndarray) -> np.ndarray:
        """Return episode, statements, questions and the step of the life's fact, `[B, 4]`."""
        dials, rows_B4 = self.dials, np.empty((len(episodes_B), 4), dtype=np.int64)
        train = dials.split == "train"
        rows_B4[:, 0], rows_B4[:, 3] = episodes_B, _NOBODY
        if train and dials.shortest:
            rows_B4[:, 1:3] = list(map(dials.size, episodes_B.tolist()))
        else:
            rows_B4[:, 1:3] = dials.size(0)
        if train and dials.tells:
            rows_B4[:, 3] = [_step(dials.facts, episode) for episode in episodes_B.tolist()]
        return rows_B4

    def _answers(self, answers_BQ: np.ndarray) -> np.ndarray:
        """Return the words of the numbers that stand for answers, objects `[B, Q]`."""
        if self.dials.task == "route":
            routes = list(map(self._routes.__getitem__, answers_BQ.ravel().tolist()))
            return np.array(routes, dtype=object).reshape(answers_BQ.shape)
        counts = self.dials.task == "count_objects"
        words = np.array(NUMBERS if counts else self.dials.cast.places, dtype=object)
        return np.asarray(words[answers_BQ])

    def _answer_of_life(self, tellers_BQ: np.ndarray, sheet: Sheet) -> None:
        """Put down what is right about the life's facts that rows ask for."""
        facts, exam = self.dials.facts, self.dials.split == "exam"
        for row, question in np.argwhere(tellers_BQ != _NOBODY).tolist():
            teller = int(tellers_BQ[row, question])
            fact = (teller - facts.task_start) % facts.facts
            sheet.targets_BQ[row, question] = self._of_life[fact]
            sheet.supports_BQ[row, question] = ((teller, _step(facts, teller)),)
            sheet.carried_BQ[row, question] = exam or teller != sheet.episodes_B[row]


@functools.lru_cache(maxsize=1 << 16)
def _step(facts: Life, episode: int) -> int:
    """Return at which step an episode tells a fact of the life."""
    return facts.told_in(episode)[1]


class _Routes(dict[int, str]):
    """The directions of routes by their numbers: digits of base 5, the last one lowest."""

    def __missing__(self, number: int) -> str:
        before, last = divmod(number, 5)
        self[number] = f"{self[before]} {_WAYS[last]}" if before else _WAYS[last]
        return self[number]


def _supports(episodes_B: np.ndarray, supports_BQ: np.ndarray, steps_BQK: np.ndarray) -> np.ndarray:
    """Return the pairs of episode and step of each question, objects `[B, Q]`."""
    counts_X, steps_XK = supports_BQ.ravel(), steps_BQK.reshape(supports_BQ.size, -1)
    episodes_X = np.repeat(episodes_B, supports_BQ.shape[1])
    found_X = np.full(len(counts_X), None, dtype=object)
    for count in range(1, counts_X.max() + 1):
        at_Y = np.flatnonzero(counts_X == count)
        episodes = episodes_X[at_Y].tolist()
        pairs = [zip(episodes, steps_XK[at_Y, k].tolist(), strict=True) for k in range(count)]
        found_X[at_Y] = np.fromiter(zip(*pairs, strict=True), dtype=object, count=len(at_Y))
    return found_X.reshape(supports_BQ.shape)


def _lines(dials: Dials) -> list[list[str]]:
    """Return the trees of all lines, kind by kind, as microworld.cpp counts them."""
    people, places, things = dials.cast
    gaps = {
        "where_person": (people,),
        "where_object": (things,),
        "where_object_before": (things, places),
        "count_objects": (people,),
        "route": (places, places),
    }
    facts = range(dials.lifetime_facts if dials.tells else 0)
    return [
        _filled(world.MOVE, person=people, verb=world.MOVED, place=places),
        _filled(world.HANDLE, person=people, verb=world.TOOK, thing=things),
        _filled(world.HANDLE, person=people, verb=world.DROPPED, thing=things),
        _filled(world.GIVE, person=people, verb=world.GAVE, thing=things, other=people),
        _filled(world.LIES, place=places, direction=DIRECTIONS, other=places),
        [line for aside in world.ASIDES for line in _filled(aside, person=people, place=places)],
        list(map(dials.facts.sentence, facts)),
        [TASKS[dials.task].question.format(*names) for names in product(*gaps[dials.task])],
        list(map(dials.facts.question, facts)),
        [""],
    ]


def _filled(template: str, **words: Iterable[str]) -> list[str]:
    """Return a template with all combinations of words, the last ones changing first."""
    return [
        template.format(**dict(zip(words, chosen, strict=True)))
        for chosen in product(*words.values())
    ]
