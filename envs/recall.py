"""Key-value recall in sentences: codes of people, told once, asked for many sentences later.

    gymnasium.make("stillknows/KeyValueRecall-v0", distance=100)
    gymnasium.make_vec("stillknows/KeyValueRecall-v0", num_envs=8)

A story tells the codes of some people, then so many sentences that are about the same people and
change nothing, then asks for every code, in any order. What strains a memory can be turned up: some
codes are told anew (the last counts), some are for today only and end when a new day begins, some
are to be forgotten, and of some a rumour says something else, which does not count. Who has no code
any more has "none". Some codes may hold for the whole life (`stillknows.envs.lasting`): one episode
tells them, and others ask for them that do not. This file knows neither how stories are served
(`stillknows.envs.text`), nor who answers.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np

from stillknows.envs.draws import Draws
from stillknows.envs.lasting import WORDS, LastingCodes
from stillknows.envs.recall_dials import CODES, PEOPLE, make_dials
from stillknows.envs.tasks import Task, dials_of, suggest
from stillknows.envs.text import RowsTask, StoryVectorEnv, balanced_tree
from stillknows.envs.turns import Sheet

ID = "stillknows/KeyValueRecall-v0"
STRESSES: dict[str, dict[str, int]] = {
    "contradictions": {"updates": 4},
    "deletions": {"forgotten": 2},
    "expiry": {"expiring": 2},
    "rumours": {"rumours": 4},
    "distractors_50": {"distance": 4},
    "distractors_90": {"distance": 36},
    "distractors_99": {"distance": 396},
}
DOINGS = ("saw", "drew", "bought", "lost", "cleaned", "found")
_STRAINS = "today new day begins forget rumour says none"
_PAIRS = len(PEOPLE) * len(CODES)
_TODAY, _RUMOUR, _FORGET = _PAIRS, 2 * _PAIRS, 3 * _PAIRS  # numbers of lines, see `_lines`
_NEW_DAY = _FORGET + len(PEOPLE)
_IDLE = _NEW_DAY + 1
THINGS = ("chair", "kettle", "mirror", "pencil", "ribbon", "spoon", "ticket", "window")
_ASK = _IDLE + len(PEOPLE) * len(DOINGS) * len(THINGS)
_NOTHING = _ASK + len(PEOPLE)
_LIFE = _NOTHING + 1  # codes of the life, as they are told, then as they are asked for
_NONE = len(CODES)
_ANSWERS = np.array([*CODES, "none"], dtype=object)


class Known(NamedTuple):
    """What holds of each told person: code, the step that says so, and the day's end, or 0."""

    codes_BF: np.ndarray
    steps_BF: np.ndarray
    day_BF: np.ndarray


class Asked(NamedTuple):
    """What is asked for, `[B, F]` each: the line, and what is right and why, as in `Known`."""

    lines_BF: np.ndarray
    codes_BF: np.ndarray
    steps_BF: np.ndarray
    day_BF: np.ndarray
    episodes_BF: np.ndarray
    carried_BF: np.ndarray


class KeyValueRecall(RowsTask):
    """Codes of people, told once, asked for many sentences later.

    Args:
        first_episode: the number of its first episode within the lifetime.
        stride: how far apart its episodes' numbers are.
        **dials: of `Dials`.
    """

    def __init__(self, first_episode: int = 0, stride: int = 1, **dials: Any) -> None:
        super().__init__(first_episode, stride)
        self.dials = make_dials(dials)

    @property
    def vocabulary(self) -> tuple[str, ...]:
        """Every word that it can say or expect, sorted."""
        words = {"the", "code", "of", "is", "what", "a", ".", "?"}
        if self.dials.expiring or self.dials.forgotten or self.dials.rumours:
            words.update(_STRAINS.split())
        if self.dials.lasting:
            words.update(WORDS)
        return tuple(sorted(words.union(PEOPLE, CODES, DOINGS, THINGS)))

    def tell_rows(
        self, keys_B: np.ndarray, episodes_B: np.ndarray, options: dict[str, Any]
    ) -> Sheet:
        """Return the stories of some episodes side by side."""
        draws, facts = Draws(keys_B), self.dials.facts
        rows_B1 = np.arange(len(keys_B))[:, None]
        people_BF, told_BS, known = self._tell_codes(draws, rows_B1)
        distance_B = self._distance(draws)
        idle_BS = _IDLE + draws.below(_ASK - _IDLE, self.dials.distance)  # whatever others draw
        idle_BS = idle_BS[:, : int(distance_B.max())]
        order_BF = draws.order(facts)
        known = Known(*(each[rows_B1, order_BF] for each in known))
        asked = Asked(
            _ASK + people_BF[rows_B1, order_BF],
            *known,
            np.repeat(episodes_B[:, None], facts, axis=1),
            np.zeros(order_BF.shape, dtype=bool),
        )
        if self.dials.lasting:
            self._tell_lasting(draws, order_BF, options, told_BS, asked)
        places_BF = told_BS.shape[1] + distance_B[:, None] + np.arange(facts)
        lines_BS = np.concatenate([told_BS, idle_BS, asked.lines_BF], axis=1)
        lines_BS[rows_B1, places_BF] = asked.lines_BF
        asks_BS = np.zeros(lines_BS.shape, dtype=bool)
        asks_BS[rows_B1, places_BF] = True
        return Sheet(
            lines_BS,
            *self._lines,
            asks_BS,
            places_BF[:, -1] + 1,
            episodes_B,
            _ANSWERS[asked.codes_BF],
            _supports(asked),
            asked.carried_BF,
        )

    @cached_property
    def _life(self) -> LastingCodes:
        dials = self.dials
        return LastingCodes(dials.life, dials.lifetime_facts, dials.lasting, len(CODES))

    @cached_property
    def _lines(self) -> tuple[np.ndarray, np.ndarray]:
        """Every sentence that can be said, and its tree; last those of the life."""
        if not self.dials.lasting:
            return _lines()
        people, codes = self._life.people, np.array(CODES)[self._life.values]
        told = [_told(person, code) for person, code in zip(people, codes, strict=True)]
        own, lasting = _lines(), _with_trees([*told, *map(_asked, people), ""])
        return np.concatenate([own[0], lasting[0]]), np.concatenate([own[1], lasting[1]])

    def _tell_lasting(
        self,
        draws: Draws,
        order_BF: np.ndarray,
        options: dict[str, Any],
        told_BS: np.ndarray,
        asked: Asked,
    ) -> None:
        """Let codes of the life be told first, and asked for; changes `told_BS` and `asked`."""
        dials, episodes_B = self.dials, asked.episodes_BF[:, 0].copy()
        until_B, now_B = episodes_B - dials.lag, episodes_B
        if dials.split == "train":
            own_BL = self._life.told_in(episodes_B)
            told_BS[:, : dials.lasting] = _LIFE + own_BL
            own_BF = np.take_along_axis(own_BL, np.minimum(order_BF, dials.lasting - 1), axis=1)
            self._ask_lasting(asked, order_BF < dials.lasting, own_BF)
        else:
            until_B = np.full_like(episodes_B, options.get("lived", 0))
            now_B = until_B - 1
        first_B = np.full_like(episodes_B, options.get("task_start", self.first_episode))
        chance_B, chance_BF = draws.uniform(1)[:, 0], draws.uniform(dials.facts)
        earlier = self._life.known_before(first_B, until_B, now_B, chance_B, dials.facts)
        asked.carried_BF[:] = (chance_BF < dials.carry) & earlier.known_B[:, None]
        self._ask_lasting(asked, asked.carried_BF, earlier.codes_BQ)
        np.copyto(asked.episodes_BF, earlier.episodes_BQ, where=asked.carried_BF)
        np.copyto(asked.steps_BF, earlier.steps_BQ, where=asked.carried_BF)

    def _ask_lasting(self, asked: Asked, where_BF: np.ndarray, lasting_BF: np.ndarray) -> None:
        """Ask for codes of the life, some of the questions."""
        asked_BF = _LIFE + self.dials.lifetime_facts + lasting_BF
        np.copyto(asked.lines_BF, asked_BF, where=where_BF)
        np.copyto(asked.codes_BF, self._life.values[lasting_BF], where=where_BF)

    def _tell_codes(
        self, draws: Draws, rows_B1: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, Known]:
        """Return whose codes are told, `[B, F]`, the lines, `[B, S]`, and what holds then."""
        dials = self.dials
        people_BF = draws.order(len(PEOPLE))[:, : dials.facts]
        codes_BC = draws.order(len(CODES))
        again_BU = draws.order(dials.facts)[:, : dials.updates]
        others_BU = codes_BC[:, dials.facts : dials.facts + dials.updates]
        first_BF = codes_BC[:, : dials.facts].copy()
        today_BF = np.broadcast_to(np.arange(dials.facts) < dials.expiring, first_BF.shape).copy()
        lines = [people_BF * len(CODES) + first_BF + _TODAY * today_BF]
        lines.append(people_BF[rows_B1, again_BU] * len(CODES) + others_BU)
        steps_BF = np.broadcast_to(np.arange(dials.facts), first_BF.shape).copy()
        first_BF[rows_B1, again_BU] = others_BU
        steps_BF[rows_B1, again_BU] = np.arange(dials.facts, dials.facts + dials.updates)
        today_BF[rows_B1, again_BU] = False
        known = Known(first_BF, steps_BF, today_BF)
        told = dials.facts + dials.updates
        lines.append(self._tell_later(draws, rows_B1, told, people_BF, known))
        if dials.expiring:
            told += lines[-1].shape[1]
            lines.append(np.full((len(people_BF), 1), _NEW_DAY))
            known.codes_BF[known.day_BF > 0] = _NONE
        return people_BF, np.concatenate(lines, axis=1), known._replace(day_BF=today_BF * told)

    def _tell_later(
        self, draws: Draws, rows_B1: np.ndarray, told: int, people_BF: np.ndarray, known: Known
    ) -> np.ndarray:
        """Return rumours and orders to forget in any order; what is forgotten changes `known`."""
        dials = self.dials
        if not dials.rumours and not dials.forgotten:
            return people_BF[:, :0]
        taken_BC = np.zeros((len(people_BF), len(CODES)), dtype=bool)
        taken_BC[rows_B1, known.codes_BF] = True
        free_BC = np.argsort(draws.uniform(len(CODES)) + taken_BC, axis=1)  # the others come last
        free_B1 = len(CODES) - taken_BC.sum(axis=1, keepdims=True)
        false_BR = free_BC[rows_B1, np.arange(dials.rumours) % free_B1]
        about_BR = people_BF[rows_B1, draws.order(dials.facts)[:, : dials.rumours]]
        forget_BO = draws.order(dials.facts)[:, : dials.forgotten]
        later_BL = np.concatenate(
            [_RUMOUR + about_BR * len(CODES) + false_BR, _FORGET + people_BF[rows_B1, forget_BO]],
            axis=1,
        )
        order_BL = draws.order(later_BL.shape[1])
        places_BL = np.argsort(order_BL, axis=1)
        known.codes_BF[rows_B1, forget_BO] = _NONE
        known.steps_BF[rows_B1, forget_BO] = told + places_BL[:, dials.rumours :]
        known.day_BF[rows_B1, forget_BO] = 0
        return np.asarray(later_BL[rows_B1, order_BL])

    def _distance(self, draws: Draws) -> np.ndarray:
        most, least = self.dials.distance, self.dials.shortest
        chance_B: np.ndarray = draws.uniform(1)[:, 0]
        if least is None or least == most:
            return np.full(len(chance_B), most)
        low, high = np.log([least + 1, most + 2])
        return np.asarray(np.exp(low + (high - low) * chance_B).astype(np.int64) - 1)


class KeyValueRecallVectorEnv(StoryVectorEnv):
    """A batch of key-value recall.

    Args:
        num_envs: how many rows (B).
        **settings: of `KeyValueRecall`, without `stride`.
    """

    def __init__(self, num_envs: int = 1, **settings: Any) -> None:
        super().__init__(num_envs, KeyValueRecall(**settings))


def recall_tasks(distances: list[int], trained: int | list[int], **dials: Any) -> list[Task]:
    """Return one task a distance of the examination.

    Args:
        distances: of the examinations.
        trained: the longest distance in training, of all tasks, or one a task; shorter ones are
            drawn as well.
        **dials: of `Dials`, in training and examinations.

    Raises:
        ValueError: if a dial is unknown or out of range, or `split` or `distance`, or there are
            fewer `trained` than tasks.
    """
    dials = dials_of("dials", dials, ("split", "distance"))
    longest = trained if isinstance(trained, Sequence) else [trained] * len(distances)
    if len(longest) != len(distances):
        raise ValueError(f"trained={trained} for distances={distances}: give one, or one each.")
    tasks = []
    for distance, most in zip(distances, longest, strict=True):
        train = {**dials, "distance": most, "shortest": 0}
        exam = {**dials, "distance": distance, "split": "exam"}
        make_dials(train)
        make_dials(exam)
        tasks.append(Task(f"recall_{distance}", ID, train, exam))
    return tasks


def stress_tasks(tasks: list[str], **dials: Any) -> list[Task]:
    """Return tasks that strain a memory, each in a way of its own.

    Args:
        tasks: keys of `STRESSES`; with `_again` behind it, a task returns.
        **dials: of `Dials`, of all tasks.

    Raises:
        ValueError: if a task or a dial is unknown, or a dial out of range, or `split`.
    """
    dials = dials_of("dials", dials, ("split",))
    made = []
    for name in tasks:
        stress = name.removesuffix("_again")
        if stress not in STRESSES:
            raise ValueError(f"There is no stress '{name}'. {suggest(stress, list(STRESSES))}")
        own = {**dials, **STRESSES[stress]}
        make_dials(own)
        made.append(Task(name, ID, own, {**own, "split": "exam"}))
    return made


@lru_cache(maxsize=1)
def _lines() -> tuple[np.ndarray, np.ndarray]:
    """Return every sentence of a story, in the order of the numbers above, and its tree."""
    codes = [_told(person, code) for person in PEOPLE for code in CODES]
    idle = [f"{p} {did} a {thing} ." for p in PEOPLE for did in DOINGS for thing in THINGS]
    lines = [
        *codes,
        *(f"today {code}" for code in codes),
        *(f"rumour says {code}" for code in codes),
        *(f"forget the code of {person} ." for person in PEOPLE),
        "a new day begins .",
        *idle,
        *map(_asked, PEOPLE),
        "",
    ]
    return _with_trees(lines)


def _told(person: str, code: str) -> str:
    return f"the code of {person} is {code} ."


def _asked(person: str) -> str:
    return f"what is the code of {person} ?"


def _with_trees(lines: list[str]) -> tuple[np.ndarray, np.ndarray]:
    return np.array(lines, dtype=object), np.array(list(map(balanced_tree, lines)), dtype=object)


def _supports(asked: Asked) -> np.ndarray:
    """Return the pairs of episode and step that each code rests on, objects `[B, F]`."""
    episodes, steps = asked.episodes_BF.ravel().tolist(), asked.steps_BF.ravel().tolist()
    told = zip(episodes, steps, strict=True)
    supports = np.fromiter(zip(told, strict=True), object, len(steps))
    days = asked.day_BF.ravel()
    for number in np.flatnonzero(days).tolist():
        supports[number] += ((episodes[number], int(days[number])),)
    return supports.reshape(asked.steps_BF.shape)
