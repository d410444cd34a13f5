"""What the events of a lifetime's log must hold, so that a report can be computed from them.

A log may come from a stranger, or from a disk that failed: what does not fit is told with its line,
and nothing is sized by a number that was not looked at.
"""

from collections.abc import Mapping
from typing import Any

_NUMBER = (int, float)
_FIELDS: dict[str, dict[str, Any]] = {
    "lifetime": {"name": str, "seed": int, "tasks": list, "protocol": str},
    "update": {"experience": int, "task": int},
    "examination": {"after": int, "task": int, "arm": str, "correct": list, "carried": list},
    "floor": {"task": int, "majority": _NUMBER, "last_mentioned": _NUMBER},
}


def expect_event(event: Mapping[str, Any], tasks: int, line: int) -> None:
    """Raise a ValueError if an event is not as `stillknows.agents.log` describes it.

    Args:
        event: of a lifetime's log; kinds that are not known may hold anything.
        tasks: how many the life has.
        line: the number of its line, from 1.
    """
    kind = event["event"]
    if not isinstance(kind, str):
        raise ValueError(f"line {line} is no event")
    for name, wanted in _FIELDS.get(kind, {}).items():
        if not isinstance(event.get(name), wanted):
            raise ValueError(f"line {line} is no {kind} as it should be: look at its '{name}'")
    if kind == "lifetime":
        _expect(event["tasks"], str, "tasks", line)
        _expect(event.get("sources", []), str, "sources", line)
        return
    if kind in _FIELDS and not 0 <= event["task"] < tasks:
        raise ValueError(f"line {line} names task {event['task']} of {tasks}")
    if kind == "examination":
        _expect_examination(event, line)


def _expect_examination(event: Mapping[str, Any], line: int) -> None:
    if not 0 <= event["after"] <= line:  # each experience that was lived has a line of its own
        raise ValueError(f"line {line} is of an examination after {event['after']} experiences")
    _expect(event["correct"], int, "correct", line)
    _expect(event["carried"], int, "carried", line)
    _expect(event.get("by_token", []), _NUMBER, "by_token", line)
    if len(event["correct"]) != len(event["carried"]):
        raise ValueError(f"line {line} has columns of different lengths")


def _expect(column: Any, wanted: Any, name: str, line: int) -> None:
    if not isinstance(column, list) or not all(isinstance(each, wanted) for each in column):
        raise ValueError(f"line {line} is not as it should be: look at its '{name}'")
