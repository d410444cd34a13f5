"""What can be turned in key-value recall, whose codes it tells, and which codes there are.

This file knows neither sentences nor stories (`stillknows.envs.recall`).
"""

from dataclasses import dataclass, fields
from typing import Any

from stillknows.envs.dials import expect_kinds
from stillknows.envs.life import MOST_FACTS
from stillknows.envs.tasks import suggest

_PEOPLE = (
    "ada ben cleo dora emil finn gina hugo iris jack kate liam mona nils olga paul "
    "rosa sven tara vito"
)
_CODES = (
    "amber birch coral delta ember frost grove heron ivory jade lemon maple nickel onyx "
    "pearl quartz raven sable tulip violet"
)
PEOPLE, CODES = tuple(_PEOPLE.split()), tuple(_CODES.split())
MOST_LIVES = 2**63 // MOST_FACTS  # whose codes are drawn by numbers of their own


@dataclass(frozen=True)
class Dials:
    """How a story is told.

    Attributes:
        facts: people whose code is told, 1 to 20.
        updates: how many of them are told a new code, right after all have one; at most `facts`,
            and with them at most 20, as many as there are codes.
        expiring: how many of the codes told first are for today only; a new day then begins after
            all was told.
        forgotten: how many codes are to be forgotten, after all was told.
        rumours: of how many people something false is said, after all was told: a code that nobody
            has, so `facts` is at most 19 then.
        distance: sentences from the last code to the first question, 0 or more.
        shortest: the least distance; below `distance`, each story draws one of either, every
            order of magnitude as likely.
        lasting: how many of the codes hold for the life; an episode tells them first, in
            examinations none.
        carry: share of the questions that ask for a lasting code of an earlier episode.
        lifetime_facts: how many lasting codes the life has, told in turns.
        lag: a training episode `e` asks for codes told in episodes before `e - lag`, and not since.
        life: the seed of the life's codes, 0 or more.
        split: "train", or "exam": no lasting codes are told, and asked are those of the training
            episodes that were lived.
    """

    facts: int = 4
    updates: int = 0
    expiring: int = 0
    forgotten: int = 0
    rumours: int = 0
    distance: int = 10
    shortest: int | None = None
    lasting: int = 0
    carry: float = 0.0
    lifetime_facts: int = 0
    lag: int = 64
    life: int = 0
    split: str = "train"

    def __post_init__(self) -> None:
        """Raise a ValueError if a dial is of a wrong kind or out of range."""
        expect_kinds(self)
        if not 1 <= self.facts <= len(PEOPLE):
            raise ValueError(f"facts={self.facts}: choose 1 to {len(PEOPLE)}.")
        for name in ("updates", "expiring", "forgotten", "rumours"):
            if not 0 <= getattr(self, name) <= self.facts:
                raise ValueError(f"{name}={getattr(self, name)}: choose 0 to facts={self.facts}.")
        self._check_codes()
        least = self.distance if self.shortest is None else self.shortest
        if not 0 <= least <= self.distance:
            raise ValueError(
                f"shortest={self.shortest} and distance={self.distance}: both are 0 or more, and "
                "shortest is not the longer."
            )
        self._check_life()

    def _check_codes(self) -> None:
        if self.facts + self.updates > len(CODES):
            raise ValueError(
                f"facts={self.facts} and updates={self.updates}: there are {len(CODES)} codes, and "
                f"none is told twice; choose at most updates={len(CODES) - self.facts}."
            )
        if self.rumours and self.facts == len(CODES):
            raise ValueError(
                f"rumours={self.rumours} with facts={self.facts}: a rumour tells a code that "
                f"nobody has; choose at most facts={len(CODES) - 1}."
            )

    def _check_life(self) -> None:
        if self.split not in ("train", "exam"):
            raise ValueError(f"split={self.split!r} is neither train nor exam.")
        if self.lag < 0:
            raise ValueError(f"lag={self.lag}: choose 0 or more, as no code is told in advance.")
        if not 0 <= self.lasting <= self.facts:
            raise ValueError(f"lasting={self.lasting}: choose 0 to facts={self.facts}.")
        if not 0 <= self.carry <= 1 or (self.carry and not self.lasting):
            raise ValueError(
                f"carry={self.carry} with lasting={self.lasting}: carry is a share, 0 to 1, of "
                "questions for lasting codes, so raise lasting to at least 1."
            )
        if not self.lasting:
            return
        if self.updates or self.expiring or self.forgotten or self.rumours:
            raise ValueError(
                f"lasting={self.lasting}: codes that hold for the life never change, so leave "
                "updates, expiring, forgotten and rumours at 0."
            )
        if not 0 <= self.life < MOST_LIVES:
            raise ValueError(f"life={self.life}: choose 0 to {MOST_LIVES - 1}.")
        least = self.lasting * (self.lag + 2)
        if not least <= self.lifetime_facts <= MOST_FACTS or self.lifetime_facts % self.lasting:
            raise ValueError(
                f"lifetime_facts={self.lifetime_facts}: choose a multiple of lasting={self.lasting}"
                f" from {least} (all of fewer are told again within lag={self.lag} episodes) to "
                f"{MOST_FACTS}."
            )


def make_dials(dials: dict[str, Any]) -> Dials:
    """Return dials by their names.

    Raises:
        ValueError: if one is unknown or out of range.
    """
    known = [field.name for field in fields(Dials)]
    for name in dials:
        if name not in known:
            raise ValueError(f"Key-value recall has no dial '{name}'. {suggest(name, known)}")
    return Dials(**dials)
