"""Planning: a blocks world is told, blocks are moved, and a plan that reaches a goal is asked for.

A plan names moves, each a block and where it goes: "red table blue green" puts the red block on the
table and the blue one on the green one. Any plan is right that can be carried out here and reaches
the goal; the target is a shortest one.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar

from stillknows.envs.kinds.writing import Page, Problems, Ranges, pick_evenly
from stillknows.envs.world import words

BLOCKS = words("amber brown coral grey lilac olive")
TABLE = "table"
MOST_MOVES = 4  # of a plan that is looked at
_LIES = "((the {block}) (is (on (the {below}))) .)"
_PUT = "((then (the {block})) (was (put (on (the {below})))) .)"
_ASKED = "(how (do you (put (the {block}) (on (the {below})))) ?)"

Towers = Mapping[str, str]  # what each block is on
Move = tuple[str, str]


def moves(towers: Towers) -> Iterator[Move]:
    """Yield every move that can be made: free blocks onto the table or onto free blocks."""
    free = _free(towers)
    for block in free:
        for below in (*free, TABLE):
            if below not in (block, towers[block]):
                yield block, below


def shortest_plan(towers: Towers, goal: Move) -> tuple[Move, ...]:
    """Return a shortest plan, of equals the first by the alphabet."""
    plans: list[tuple[Towers, tuple[Move, ...]]] = [(towers, ())]
    seen = {tuple(sorted(towers.items()))}
    for state, plan in plans:  # grows while it is walked: shorter plans come first
        if state[goal[0]] == goal[1]:
            return plan
        for move in sorted(moves(state)):
            after = {**state, move[0]: move[1]}
            key = tuple(sorted(after.items()))
            if key not in seen:
                seen.add(key)
                plans.append((after, (*plan, move)))
    raise ValueError(f"No plan puts {goal[0]} on {goal[1]}.")


@dataclass(frozen=True)
class Reaches:
    """Tells whether a plan can be carried out and reaches a goal."""

    towers: tuple[Move, ...]
    goal: Move

    def __call__(self, answer: str) -> bool:
        """Return whether it does."""
        words, towers = answer.split(), dict(self.towers)
        if len(words) % 2 or len(words) > 2 * MOST_MOVES:
            return False
        for move in zip(words[::2], words[1::2], strict=True):
            if move not in moves(towers):
                return False
            towers[move[0]] = move[1]
        return towers[self.goal[0]] == self.goal[1]


@dataclass(frozen=True, kw_only=True)
class Planning(Problems):
    """A plan for a blocks world.

    Attributes:
        blocks: in the world.
        moved: how often a block was moved before it is asked.
        fewest, moves: that the shortest plan has, each number as likely. With `fewest=1` some goals
            are reached by the move that the question names, whatever was told. With the usual
            dials more than a third are by putting the second block that it names on the table,
            and the first on it.
    """

    ranges: ClassVar[Ranges] = {
        "blocks": (3, len(BLOCKS)),
        "moved": (0, 20),
        "fewest": (1, 3),
        "moves": (1, 3),
    }
    said: ClassVar[Sequence[str]] = (_LIES, _PUT, _ASKED, *BLOCKS, TABLE)

    blocks: int = 3
    moved: int = 1
    fewest: int = 2
    moves: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.fewest <= self.moves < self.blocks + 1:
            raise ValueError(
                f"fewest={self.fewest}, moves={self.moves} and blocks={self.blocks}: fewest is at "
                "most moves, and moves at most blocks."
            )

    def write(self, draw: Random, page: Page) -> None:
        """Tell how blocks lie, move some, and ask for a plan."""
        plans: dict[Move, tuple[Move, ...]] = {}
        while not plans:
            begin, moved, towers = self._world(draw)
            plans = self._plans(towers)
        steps = {
            block: page.tell(_LIES.format(block=block, below=begin[block]))
            for block in draw.sample(list(begin), len(begin))
        }
        for block, below in moved:
            steps[block] = page.tell(_PUT.format(block=block, below=below))
        goal = pick_evenly(draw, list(plans), lambda goal: len(plans[goal]))
        plan = " ".join(word for move in plans[goal] for word in move)
        involved = dict.fromkeys(block for end in goal for block in _above(towers, end))
        supports = sorted(steps[block] for block in involved)
        asked = _ASKED.format(block=goal[0], below=goal[1])
        page.ask(asked, plan, supports, Reaches(tuple(towers.items()), goal))

    def _world(self, draw: Random) -> tuple[Towers, list[Move], Towers]:
        """Draw how blocks lie, how some are moved, and how all lie then."""
        begin: dict[str, str] = {}
        for block in draw.sample(BLOCKS, self.blocks):
            begin[block] = draw.choice([*_free(begin), TABLE])
        towers, moved = dict(begin), []
        for _ in range(self.moved):
            block, below = draw.choice(list(moves(towers)))
            towers[block] = below
            moved.append((block, below))
        return begin, moved, towers

    def _plans(self, towers: Towers) -> dict[Move, tuple[Move, ...]]:
        """Return a shortest plan for every goal that takes as many moves as are asked for."""
        goals = [(block, below) for block in towers for below in (*towers, TABLE) if block != below]
        plans = {goal: shortest_plan(towers, goal) for goal in goals}
        return {g: plan for g, plan in plans.items() if self.fewest <= len(plan) <= self.moves}


def _free(towers: Towers) -> list[str]:
    """Return the blocks that nothing lies on."""
    return sorted(set(towers) - set(towers.values()))


def _above(towers: Towers, block: str) -> Sequence[str]:
    """Return a block and those on it, up to the free one; nothing for the table."""
    if block == TABLE:
        return []
    tower = [block]
    while on := [other for other, below in towers.items() if below == tower[-1]]:
        tower += on
    return tower
