"""The five tasks of the microworld: what each asks of the world, and which events it needs.

This file knows the world as it stands, not the story that is told of it, nor any lifetime.
"""

from collections.abc import Callable
from typing import NamedTuple

from stillknows.envs.world import NUMBERS, World

Event = Callable[[World, int], str]

# A candidate question: the answer, what fills the gaps of the question, the steps of its supports.
Candidate = tuple[str, tuple[str, ...], tuple[int, ...]]


class Riddle(NamedTuple):
    """How a task tells and asks.

    Attributes:
        question: the tree of its question, with gaps.
        opening: how many events make a question possible, at worst.
        events: what can happen, as often as it is listed.
        need: how many events are missing in this world before something can be asked.
        advance: lets an event happen that makes `need` smaller.
        candidates: everything that can be asked and is determined by what was told.
    """

    question: str
    opening: int
    events: tuple[Event, ...]
    need: Callable[[World], int]
    advance: Event
    candidates: Callable[[World, int], list[Candidate]]


def _persons(world: World, _: int) -> list[Candidate]:
    return [(place, (who,), (world.moved[who],)) for who, place in world.place.items()]


def _objects(world: World, _: int) -> list[Candidate]:
    held: list[Candidate] = [
        (world.place[who], (thing,), (world.gained[thing], world.moved[who]))
        for thing, who in world.holder.items()
        if who in world.place
    ]
    return held + [
        (lying.place, (thing,), (lying.dropped, lying.moved))
        for thing, lying in world.lying.items()
    ]


def _earlier_places(world: World, _: int) -> list[Candidate]:
    return [(answer, asked, steps) for asked, (answer, steps) in world.before.items()]


def _counts(world: World, _: int) -> list[Candidate]:
    gained: dict[str, list[int]] = {}
    for thing, who in world.holder.items():
        gained.setdefault(who, []).append(world.gained[thing])
    some: list[Candidate] = [
        (NUMBERS[len(steps)], (who,), tuple(sorted(steps))) for who, steps in gained.items()
    ]
    none: list[Candidate] = [
        ("none", (who,), (step,)) for who, step in world.lost.items() if who not in gained
    ]
    return some + none


def _routes(world: World, longest: int) -> list[Candidate]:
    return list(world.routes(longest))


def _need_for_object(world: World) -> int:
    if _objects(world, 0):
        return 0
    return 1 if world.holder or world.place else 2


def _need_for_earlier_place(world: World) -> int:
    if world.before:
        return 0
    if world.holder:
        return 1 if any(who in world.place for who in world.holder.values()) else 2
    untouched = len(world.lying) < len(world.names.objects)
    met = any(lying.place in world.place.values() for lying in world.lying.values())
    return 2 if world.place and (untouched or met) else 3


def _carry(world: World, step: int) -> str:
    """Bring the world one event nearer to an object that somebody carries to a place."""
    if world.holder:
        holders = list(world.holder.values())
        return world.move(
            step, world.pick([who for who in holders if who in world.place] or holders)
        )
    if world.place:
        taken = world.take(step, tuple(world.place))
        return taken or world.move(step, place=world.pick(list(world.lying.values())).place)
    first: tuple[Event, ...] = (World.move, World.take)
    return world.pick(first)(world, step)


def _take_along(world: World, step: int) -> str:
    """Let somebody who holds something go elsewhere, so that objects get about."""
    holders = list(world.holder.values())
    return world.move(step, world.pick(holders)) if holders else ""


def _toward_aim(world: World, step: int) -> str:
    """Bring the number of objects that the hero holds nearer to the aim."""
    held = sum(who == world.hero for who in world.holder.values())
    hero = (world.hero,)
    if held > world.aim:
        return world.drop(step, hero) or world.move(step, world.hero)
    if held < world.aim or world.hero not in world.lost:
        return world.take(step, hero)
    return ""


TASKS = {
    "where_person": Riddle(
        question="(where (is {}) ?)",
        opening=1,
        events=(World.move,) * 6 + (World.take, World.drop, World.give),
        need=lambda world: 0 if world.place else 1,
        advance=World.move,
        candidates=_persons,
    ),
    "where_object": Riddle(
        question="(where (is (the {})) ?)",
        opening=2,
        events=(World.move,) * 4 + (World.take,) * 3 + (World.drop, World.give),
        need=_need_for_object,
        advance=_carry,
        candidates=_objects,
    ),
    "where_object_before": Riddle(
        question="(where ((was (the {})) (before (the {}))) ?)",
        opening=3,
        events=(_take_along,) * 5 + (World.move, World.take, World.take, World.drop, World.give),
        need=_need_for_earlier_place,
        advance=_carry,
        candidates=_earlier_places,
    ),
    "count_objects": Riddle(
        question="((how (many objects)) (is {} holding) ?)",
        opening=1,
        events=(_toward_aim,) * 7 + (World.move, World.drop, World.give),
        need=lambda world: 0 if world.holder or world.lost else 1,
        advance=World.take,
        candidates=_counts,
    ),
    "route": Riddle(
        question="(how (do you (go (from (the {})) (to (the {})))) ?)",
        opening=1,
        events=(World.tell_way,) * 3 + (World.move,),
        need=lambda world: 0 if world.ways else 1,
        advance=World.tell_way,
        candidates=_routes,
    ),
}
