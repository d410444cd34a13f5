"""Of what kind the values of dials are, for dataclasses of dials: a wrong one is one sentence."""

import dataclasses
from numbers import Integral, Real
from typing import Any, get_args

_KINDS: dict[Any, tuple[type, str]] = {
    int: (Integral, "a whole number"),
    float: (Real, "a number"),
    str: (str, "a word"),
    bool: (bool, "true or false"),
}


def expect_kinds(dials: Any) -> None:
    """Raise a ValueError if a value is not of the kind that its field is declared with.

    Args:
        dials: an instance of a dataclass; fields of int, float, str or bool, or of one of them or
            None.
    """
    for field in dataclasses.fields(dials):
        value, optional = getattr(dials, field.name), get_args(field.type)
        if optional and value is None:
            continue
        kind, words = _KINDS[optional[0] if optional else field.type]
        if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
            raise ValueError(f"{field.name}={value!r} is not {words}: give one.")
