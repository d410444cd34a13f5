"""Says in one sentence which number cannot be, and which can."""

import math
from numbers import Integral, Real
from typing import Any


def whole(least: int, **values: Any) -> None:
    """Raise a ValueError if one of these values is not a whole number of at least `least`."""
    for name, value in values.items():
        if not (_is(value, Integral) and int(value) >= least):
            raise ValueError(f"{name}={value} should be a whole number, at least {least}.")


def pair(least: int, **values: Any) -> None:
    """Raise a ValueError if one of these values is not two whole numbers of at least `least`."""
    for name, value in values.items():
        two = hasattr(value, "__len__") and not isinstance(value, str) and len(value) == 2
        if not (two and all(_is(v, Integral) and int(v) >= least for v in value)):
            raise ValueError(f"{name}={value} should be two whole numbers, at least {least} each.")


def number(low: float, high: float = math.inf, **values: float) -> None:
    """Raise a ValueError if one of these values is not a number from `low` to `high`."""
    limit = f", at least {low}" if high == math.inf else f" from {low} to {high}"
    for name, value in values.items():
        if not (_is(value, Real) and low <= value <= high):
            raise ValueError(f"{name}={value} should be a number{limit}.")


def above(low: float, **values: float) -> None:
    """Raise a ValueError if one of these values is not a number above `low`."""
    for name, value in values.items():
        if not (_is(value, Real) and low < value < math.inf):
            raise ValueError(f"{name}={value} should be a number above {low}.")


def _is(value: Any, kind: type) -> bool:
    """Return whether a value is a number of this kind, which true and false are not."""
    return isinstance(value, kind) and not isinstance(value, bool)
