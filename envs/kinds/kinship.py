"""Kinship: a chain of relatives is told in any order, and how two of them are related is asked.

After CLUTRR (Sinha et al. 2019, arXiv:1908.06177), with the algebra of relations written out:
`COMPOSE` says what a parent, child, sibling or spouse of a relative is, and says nothing where that
is open (a grandmother's son is a father or an uncle). Siblings share both parents, spouses share
their children, nobody marries twice, and different names are different people.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import combinations
from random import Random
from typing import ClassVar, NamedTuple

from stillknows.envs.kinds.writing import Page, Problems, Ranges, pick_questions
from stillknows.envs.world import words

WOMEN = words("ada cleo dora gina iris kate mona olga rosa tara una wilma")
MEN = words("ben emil finn hugo jack liam nils paul sven vito otto yuri")

# of each relation, the words for a woman and for a man
WORDS = {
    "parent": ("mother", "father"),
    "child": ("daughter", "son"),
    "sibling": ("sister", "brother"),
    "spouse": ("wife", "husband"),
    "grandparent": ("grandmother", "grandfather"),
    "grandchild": ("granddaughter", "grandson"),
    "great-grandparent": ("great-grandmother", "great-grandfather"),
    "great-grandchild": ("great-granddaughter", "great-grandson"),
    "parent's sibling": ("aunt", "uncle"),
    "grandparent's sibling": ("great-aunt", "great-uncle"),
    "sibling's child": ("niece", "nephew"),
    "sibling's grandchild": ("great-niece", "great-nephew"),
    "cousin": ("cousin", "cousin"),
    "parent-in-law": ("mother-in-law", "father-in-law"),
    "child-in-law": ("daughter-in-law", "son-in-law"),
    "sibling-in-law": ("sister-in-law", "brother-in-law"),
}
STEPS = ("parent", "child", "sibling", "spouse")
COMPOSE = {
    "": {step: step for step in STEPS},
    "parent": {
        "parent": "grandparent",
        "child": "sibling",
        "sibling": "parent's sibling",
        "spouse": "parent",
    },
    "child": {"child": "grandchild", "sibling": "child", "spouse": "child-in-law"},
    "sibling": {
        "parent": "parent",
        "child": "sibling's child",
        "sibling": "sibling",
        "spouse": "sibling-in-law",
    },
    "spouse": {"parent": "parent-in-law", "child": "child", "sibling": "sibling-in-law"},
    "grandparent": {
        "parent": "great-grandparent",
        "sibling": "grandparent's sibling",
        "spouse": "grandparent",
    },
    "grandchild": {"child": "great-grandchild", "sibling": "grandchild"},
    "great-grandparent": {"spouse": "great-grandparent"},
    "great-grandchild": {"sibling": "great-grandchild"},
    "parent's sibling": {"child": "cousin"},
    "sibling's child": {"child": "sibling's grandchild", "sibling": "sibling's child"},
    "sibling's grandchild": {"sibling": "sibling's grandchild"},
    "cousin": {"sibling": "cousin"},
    "parent-in-law": {},
    "child-in-law": {"child": "grandchild"},
    "grandparent's sibling": {},
    "sibling-in-law": {},
}
_TOLD = "({other} (is ((the {word}) (of {person}))) .)"
_ASKED = "(who (is ({other} (to {person}))) ?)"


class Pair(NamedTuple):
    """Two people of the chain, and what the second is to the first."""

    first: int
    second: int
    word: str


@dataclass(frozen=True, kw_only=True)
class Kinship(Problems):
    """How two people are related who are some relations apart.

    Attributes:
        relations: told between neighbours of the chain.
        distractors: relations told of people that nobody asks about.
        shortest: relations between those who are asked about, at least.
        questions: at most; as many as there are pairs that a relation has a word for.
    """

    ranges: ClassVar[Ranges] = {
        "relations": (2, 6),
        "distractors": (0, 5),
        "shortest": (2, 6),
        "questions": (1, 5),
    }
    said: ClassVar[Sequence[str]] = (
        _TOLD,
        _ASKED,
        *WOMEN,
        *MEN,
        *(word for pair in WORDS.values() for word in pair),
    )

    relations: int = 3
    distractors: int = 1
    shortest: int = 2
    questions: int = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.shortest > self.relations:
            raise ValueError(
                f"shortest={self.shortest} is above relations={self.relations}: lower it."
            )

    def write(self, draw: Random, page: Page) -> None:
        """Tell a chain of relatives in any order, then ask."""
        chains = _chains(self.relations)
        chain = draw.choice(chains[draw.choice(list(chains))])
        links = [(n + 1, n, step) for n, step in enumerate(chain)]
        links += [  # what can be told of anybody without a contradiction
            (len(links) + 1 + n, draw.randrange(len(chain) + 1), draw.choice(("child", "sibling")))
            for n in range(self.distractors)
        ]
        male = _sexes(draw, links)
        people = _named(draw, male)
        steps = {}
        for number in draw.sample(range(len(links)), len(links)):
            other, person, step = links[number]
            word = WORDS[step][male[other]]
            told = _TOLD.format(other=people[other], word=word, person=people[person])
            steps[number] = page.tell(told)
        for pair in pick_questions(draw, self._pairs(chain, male), self.questions, _word):
            asked = _ASKED.format(other=people[pair.second], person=people[pair.first])
            page.ask(asked, pair.word, [steps[n] for n in range(pair.first, pair.second)])

    def _pairs(self, chain: Sequence[str], male: Sequence[bool]) -> list[Pair]:
        return [
            Pair(first, second, WORDS[found][male[second]])
            for first, second in combinations(range(len(chain) + 1), 2)
            if second - first >= self.shortest and (found := compose(chain[first:second]))
        ]


def compose(chain: Sequence[str]) -> str:
    """Return what the last of a chain of relatives is to the first, "" where that is open."""
    relation, met = "", set()
    for step in chain:
        back = step == "parent" and relation == "sibling" and "parent" in met
        if back or (step == "spouse" and "spouse" in met):  # it may be somebody who was met before
            return ""
        relation = COMPOSE[relation].get(step, "")
        if not relation:
            return ""
        met.add(step)
    return relation


@lru_cache(maxsize=8)
def _chains(length: int) -> dict[str, list[tuple[str, ...]]]:
    """Return the chains of a length by what the last is to the first."""
    chains: list[tuple[str, ...]] = [()]
    for _ in range(length):
        chains = [(*chain, step) for chain in chains for step in STEPS if compose((*chain, step))]
    found: dict[str, list[tuple[str, ...]]] = {}
    for chain in chains:
        found.setdefault(compose(chain), []).append(chain)
    return found


def _word(pair: Pair) -> str:
    return pair.word


def _sexes(draw: Random, links: Sequence[tuple[int, int, str]]) -> list[bool]:
    """Return of each person whether they are male; spouses are not of one sex."""
    male = [draw.random() < 0.5]
    for _, person, step in links:
        male.append(not male[person] if step == "spouse" else draw.random() < 0.5)
    return male


def _named(draw: Random, male: Sequence[bool]) -> list[str]:
    women, men = (draw.sample(names, len(names)) for names in (WOMEN, MEN))
    return [(men if each else women).pop() for each in male]
