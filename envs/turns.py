"""Stories side by side: what all rows say at once, as arrays, so that serving a turn costs little.

Rows that come to their next question before the others wait, saying "", until all ask theirs. This
file knows arrays of sentences and nothing of how they are written. Letters: B rows, S steps of the
longest story, T turns; the last turn is the one in which all are over.
"""

from operator import eq
from typing import Any, NamedTuple

import numpy as np

Info = dict[str, Any]


class Sheet(NamedTuple):
    """Stories of B rows; what lies behind the end of a row's story is not looked at.

    Attributes:
        lines_BS: what is said: places in the next two.
        sentences: strings of any rows, objects; the last is "".
        trees: the tree of each.
        asked_BS: which sentences ask, bool, False behind the end.
        lengths_B: how many sentences each story has.
        episodes_B: the number of each story.
        targets_BQ, supports_BQ, carried_BQ: what is told after each answer, strings, tuples of
            pairs and bool; None and False where a row has fewer questions.
        verify_BQ: what tells whether other answers are right, or None where only the target is;
            None if that is so everywhere.
    """

    lines_BS: np.ndarray
    sentences: np.ndarray
    trees: np.ndarray
    asked_BS: np.ndarray
    lengths_B: np.ndarray
    episodes_B: np.ndarray
    targets_BQ: np.ndarray
    supports_BQ: np.ndarray
    carried_BQ: np.ndarray
    verify_BQ: np.ndarray | None = None


class Turns:
    """The turns in which rows tell their stories together.

    Args:
        sheet: the stories.

    Attributes:
        observations: of each turn, one a row.
        ended_TB: which rows are over.
    """

    def __init__(self, sheet: Sheet) -> None:
        self._turn_BS = _turns_of(sheet)
        self._here_BS = np.arange(sheet.asked_BS.shape[1]) < sheet.lengths_B[:, None]
        self._even = bool((self._turn_BS[0] == self._turn_BS).all() and self._here_BS.all())
        told_BS = self._turn_BS if self._even else np.where(self._here_BS, self._turn_BS, -1)
        self._turns = int(told_BS.max(initial=-1)) + 2
        lines_TB = self._place(sheet.lines_BS, -1)
        self.observations = list(map(tuple, sheet.sentences[lines_TB].tolist()))
        self._trees_TB = sheet.trees[lines_TB]
        self._asked_TB = self._place(sheet.asked_BS, False)
        self._steps_TB = self._steps(sheet.lengths_B)
        self.ended_TB = self._steps_TB >= sheet.lengths_B
        asking_T = self._asked_TB.any(axis=1)
        self._question = np.where(asking_T, np.cumsum(asking_T) - 1, -1).tolist()
        self._sheet = sheet
        self._everyone_B = np.ones(len(sheet.lengths_B), dtype=bool)

    def __len__(self) -> int:
        """Return how many turns there are, the last included in which all are over."""
        return self._turns

    def info(self, turn: int) -> Info:
        """Return what is known in a turn; a row that waits is known by the step it tells next."""
        return {
            "question": self._asked_TB[turn],
            "_question": self._everyone_B,
            "tree": self._trees_TB[turn],
            "_tree": self._everyone_B,
            "episode": self._sheet.episodes_B,
            "_episode": self._everyone_B,
            "step": self._steps_TB[turn],
            "_step": self._everyone_B,
        }

    def mark(self, turn: int, actions: Any) -> tuple[np.ndarray, Info]:
        """Return the rewards of the actions in a turn, `[B]`, and what is told after them."""
        sheet, question = self._sheet, self._question[turn]  # rows ask together
        if question < 0:
            return np.zeros(len(self._everyone_B)), {}
        targets_B, asked_B = sheet.targets_BQ[:, question], self._asked_TB[turn]
        right_B = np.fromiter(map(eq, actions, targets_B.tolist()), float, len(asked_B))
        if sheet.verify_BQ is not None:
            for row in np.flatnonzero(asked_B & (right_B == 0)).tolist():
                verify = sheet.verify_BQ[row, question]
                right_B[row] = verify is not None and verify(actions[row])
        told = {
            "target": targets_B,
            "supports": sheet.supports_BQ[:, question],
            "carried": sheet.carried_BQ[:, question],
        }
        there = {f"_{name}": asked_B for name in told}
        if sheet.verify_BQ is not None:
            verify_B = sheet.verify_BQ[:, question].copy()
            verify_B[~asked_B] = None
            some_B = np.array([verify is not None for verify in verify_B])
            if some_B.any():
                told["verify"], there["_verify"] = verify_B, some_B
        return right_B, told | there

    def _place(self, values_BS: np.ndarray, blank: Any) -> np.ndarray:
        """Return what rows have at their steps in the turns that tell them, `[T, B]`."""
        blanks = 1 if self._even else self._turns
        blank_TB = np.full((blanks, len(values_BS)), blank, values_BS.dtype)
        if self._even:
            return np.concatenate((values_BS.T, blank_TB))
        rows_X, steps_X = np.nonzero(self._here_BS)
        blank_TB[self._turn_BS[rows_X, steps_X], rows_X] = values_BS[rows_X, steps_X]
        return blank_TB

    def _steps(self, lengths_B: np.ndarray) -> np.ndarray:
        """Return the step that each row tells in a turn or, if it waits, next, `[T, B]`."""
        rows, steps = self._turn_BS.shape
        told_BS = np.broadcast_to(np.arange(steps), (rows, steps))
        steps_TB = self._place(told_BS, np.iinfo(told_BS.dtype).max)
        steps_TB[-1] = lengths_B
        if not self._even:
            steps_TB = np.minimum.accumulate(steps_TB[::-1])[::-1]
        return steps_TB


def _turns_of(sheet: Sheet) -> np.ndarray:
    """Return the turn in which each row tells each step, `[B, S]`."""
    asked_BS: np.ndarray = sheet.asked_BS
    rows, steps = asked_BS.shape
    if (asked_BS == asked_BS[0]).all():
        return np.broadcast_to(np.arange(steps), (rows, steps))
    before_BS = np.cumsum(asked_BS, axis=1) - asked_BS  # which stretch, each up to a question
    stretches = int(asked_BS.sum(axis=1).max())
    ends_BQ = np.zeros((rows, stretches + 1), dtype=int)  # the step after each stretch's question
    asking_X, at_X = np.nonzero(asked_BS)
    ends_BQ[asking_X, before_BS[asking_X, at_X] + 1] = at_X + 1
    longest_Q = np.diff(ends_BQ, axis=1).max(axis=0)
    offsets_Q = np.concatenate([[0], np.cumsum(longest_Q)])
    first_BS = np.take_along_axis(ends_BQ, np.minimum(before_BS, stretches), axis=1)
    turn_BS: np.ndarray = offsets_Q[np.minimum(before_BS, stretches)] + np.arange(steps) - first_BS
    return np.where(asked_BS, offsets_Q[np.minimum(before_BS + 1, stretches)] - 1, turn_BS)
