"""What the events of a lifetime's log must hold, so that a report can be computed from them.

A log may come from a stranger, or from a disk that failed: what does not fit is told with its line,
and nothing is sized by a number that was not looked at.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

_NUMBER = (int, float)
_FIELDS: dict[str, dict[str, Any]] = {
    "lifetime": {"name": str, "seed": int, "tasks": list, "protocol": str},
    "update": {"experience": int, "task": int},
    "examination": {"after": int, "task": int, "arm": str},
    "interim": {"experience": int, "update": int, "task": int},
    "plasticity": {"after": int, "dormant": dict, "effective_rank": _NUMBER},
    "floor": {"task": int, "majority": _NUMBER, "last_mentioned": _NUMBER},
    "fault": {"task": int},
    "anatomy": {"after": int, "task": int, "causes": str},
}
_OPTIONAL: dict[str, dict[str, Any]] = {  # what some or older logs do not tell
    "lifetime": {"order": int, "scale": list | None, "needs": list, "gives": list},
    "update": {"steps": int, "loss": _NUMBER, "accuracy": _NUMBER},
    "floor": {"random": _NUMBER},
    "end": {"memory_bytes": int, "parameters": int},
    "clock": {"seconds": _NUMBER},
}
_ACTED: dict[str, Any] = {
    "task": int,
    "random_return": _NUMBER,
    "reference_return": _NUMBER,
}  # a floor of acting


_CAUSES = set("neorm?")  # letters of `CAUSES` in `stillknows.agents.examinations.anatomy`
_OF_A_QUESTION = {"episodes": int, "steps": int, "carried": int, "mended": int}  # in an anatomy


def expect_event(event: Mapping[str, Any], tasks: int, line: int) -> None:
    """Raise a ValueError if an event is not as `stillknows.agents.reports.log` describes it.

    Args:
        event: of a lifetime's log; kinds that are not known may hold anything.
        tasks: how many the life has.
        line: the number of its line, from 1.
    """
    kind = event["event"]
    if not isinstance(kind, str):
        raise ValueError(f"line {line} is no event")
    acted = kind == "floor" and "random_return" in event
    for name, wanted in (_ACTED if acted else _FIELDS.get(kind, {})).items():
        if not isinstance(event.get(name), wanted):
            raise ValueError(f"line {line} is no {kind} as it should be: look at its '{name}'")
    for name, wanted in _OPTIONAL.get(kind, {}).items():
        if name in event and not isinstance(event[name], wanted):
            raise ValueError(f"line {line} is no {kind} as it should be: look at its '{name}'")
    if kind == "lifetime":
        _expect(event["tasks"], str, "tasks", line)
        _expect(event.get("sources", []), str, "sources", line)
        _expect_arranged(event, line)
        return
    if "task" in _FIELDS.get(kind, {}) and not 0 <= event["task"] < tasks:
        raise ValueError(f"line {line} names task {event['task']} of {tasks}")
    for of, expect in _COLUMNS.items():
        if kind == of:
            expect(event, line)


def expect_examined(events: Sequence[Mapping[str, Any]]) -> None:
    """Raise a ValueError if an anatomy is of no examination whose questions are named."""
    named = {"correct", "episodes", "steps"}
    held = {
        (event["after"], event["task"])
        for event in events
        if event["event"] == "examination" and event["arm"] == "agent" and named <= event.keys()
    }
    for line, event in enumerate(events, start=1):
        if event["event"] == "anatomy" and (event["after"], event["task"]) not in held:
            raise ValueError(f"line {line} is about an examination that is not there")


def _expect_examination(event: Mapping[str, Any], line: int) -> None:
    if not 0 <= event["after"] <= line:  # each experience that was lived has a line of its own
        raise ValueError(f"line {line} is of an examination after {event['after']} experiences")
    _expect_marks(event, line)
    for name in ("by_token", "scores", "lengths"):
        _expect(event.get(name, []), _NUMBER, name, line)
    for name in ("correct", "carried", "episodes", "steps"):
        if name in event or (name == "carried" and "returns" not in event):
            _expect(event.get(name), int, name, line)
            if "returns" not in event:
                _expect_length(event[name], event["correct"], line)


def _expect_anatomy(event: Mapping[str, Any], line: int) -> None:
    """Expect columns as long as there are causes, each of a kind that is known."""
    for name, wanted in _OF_A_QUESTION.items():
        _expect(event.get(name), wanted, name, line)
        _expect_length(event[name], event["causes"], line)
    if set(event["causes"]) - _CAUSES:
        raise ValueError(f"line {line} is not as it should be: look at its 'causes'")


def _expect_length(column: Sequence[Any], other: Sequence[Any], line: int) -> None:
    if len(column) != len(other):
        raise ValueError(f"line {line} has columns of different lengths")


def _expect_marks(event: Mapping[str, Any], line: int) -> None:
    """Expect right answers, or returns in their place."""
    if "returns" in event:
        _expect(event["returns"], _NUMBER, "returns", line)
    else:
        _expect(event.get("correct"), int, "correct", line)


def _expect_arranged(head: Mapping[str, Any], line: int) -> None:
    """Expect what newer logs say of tasks to be about as many tasks as there are."""
    count = len(head["tasks"])
    places, repeats = (head.get(name, list(range(count))) for name in ("places", "repeats"))
    _expect(places, int, "places", line)
    _expect(repeats, int, "repeats", line)
    if sorted(places) != list(range(count)) or len(repeats) != count:
        raise ValueError(f"line {line} is not as it should be: look at its 'places' and 'repeats'")
    if not isinstance(head.get("setting", {}), dict):
        raise ValueError(f"line {line} is not as it should be: look at its 'setting'")


def _expect(column: Any, wanted: Any, name: str, line: int) -> None:
    if not isinstance(column, list) or not all(isinstance(each, wanted) for each in column):
        raise ValueError(f"line {line} is not as it should be: look at its '{name}'")


_COLUMNS: dict[str, Callable[[Mapping[str, Any], int], None]] = {
    "examination": _expect_examination,
    "interim": _expect_marks,
    "anatomy": _expect_anatomy,
}
