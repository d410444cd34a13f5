"""Programs: small imperative programs are told line by line, then the value of a variable is asked.

Values are digits and wrap: 9 plus 1 is 0. A line sets a variable, maybe under a condition, or
several times over. It rests on the lines that gave the values it uses, so the supports of an answer
are the program's slice for the variable: run alone, it gives the same value.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, NamedTuple

from stillknows.envs.kinds.writing import DIGITS, Page, Problems, Ranges, pick_questions
from stillknows.envs.world import words

VARIABLES = words("u v w x y z")
OPERATIONS: Mapping[str, Callable[[int, int], int]] = {
    "plus": lambda left, right: left + right,
    "minus": lambda left, right: left - right,
}
CONDITIONS: Mapping[str, Callable[[int, int], bool]] = {
    "is": lambda left, right: left == right,
    "exceeds": lambda left, right: left > right,
}
_SETS = "({variable} (becomes ({value})))"
_ONCE = "({act} .)"
_OFTEN = "((do {times} times) {act} .)"
_IF = "((if ({left} ({condition} {right}))) (then {act}) .)"
_ASKED = "(what (is {variable}) ?)"


class Line(NamedTuple):
    """`if left condition right then variable becomes first operation second`, `times` over.

    Operands are variables or digits; without an operation, the second operand is not used.
    """

    variable: str
    first: str
    operation: str = ""
    second: str = ""
    times: int = 1
    left: str = ""
    condition: str = ""
    right: str = ""

    def tree(self) -> str:
        """Return the sentence, in brackets."""
        value = f"{self.first} ({self.operation} {self.second})" if self.operation else self.first
        act = _SETS.format(variable=self.variable, value=value)
        if self.condition:
            condition = {"left": self.left, "condition": self.condition, "right": self.right}
            return _IF.format(**condition, act=act)
        return (_OFTEN if self.times > 1 else _ONCE).format(times=self.times, act=act)


class Machine:
    """Runs lines, and keeps of every variable its value and the steps that it rests on."""

    def __init__(self) -> None:
        self.values: dict[str, int] = {}
        self.steps: dict[str, frozenset[int]] = {}

    def run(self, line: Line, step: int) -> None:
        """Run a line that was told at a step."""
        rests = frozenset({step}) | self._rests(line.left) | self._rests(line.right)
        if line.condition:
            left, right = self._value(line.left), self._value(line.right)
            if not CONDITIONS[line.condition](left, right):
                return
        for _ in range(line.times):
            value, rests = self._value(line.first), rests | self._rests(line.first)
            if line.operation:
                value = OPERATIONS[line.operation](value, self._value(line.second)) % len(DIGITS)
                rests |= self._rests(line.second)
            self.values[line.variable], self.steps[line.variable] = value, rests

    def _value(self, operand: str) -> int:
        return int(operand) if operand in DIGITS else self.values[operand]

    def _rests(self, operand: str) -> frozenset[int]:
        return self.steps.get(operand, frozenset())


@dataclass(frozen=True, kw_only=True)
class Programs(Problems):
    """The value of a variable after a program.

    Attributes:
        variables: of the program; the first lines set each to a digit.
        lines: after these.
        loops: share of the lines that are done several times.
        conditions: share of the lines that are done under a condition.
        questions: asked at the end, about different variables.
    """

    ranges: ClassVar[Ranges] = {
        "variables": (1, len(VARIABLES)),
        "lines": (0, 100),
        "loops": (0, 1),
        "conditions": (0, 1),
        "questions": (1, len(VARIABLES)),
    }
    said: ClassVar[Sequence[str]] = (
        *(_SETS, _ONCE, _OFTEN, _IF, _ASKED),
        *(*OPERATIONS, *CONDITIONS, *VARIABLES, *DIGITS),
    )

    variables: int = 3
    lines: int = 3
    loops: float = 0.2
    conditions: float = 0.2
    questions: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.questions > self.variables:
            raise ValueError(
                f"questions={self.questions}: there are variables={self.variables}; ask less."
            )

    def write(self, draw: Random, page: Page) -> None:
        """Tell a program, then ask for variables."""
        names, machine = draw.sample(VARIABLES, self.variables), Machine()
        program = [Line(name, draw.choice(DIGITS)) for name in names]
        program += [self._line(draw, names) for _ in range(self.lines)]
        for line in program:
            machine.run(line, page.tell(line.tree()))
        for name in pick_questions(draw, names, self.questions, machine.values.__getitem__):
            target = str(machine.values[name])
            page.ask(_ASKED.format(variable=name), target, sorted(machine.steps[name]))

    def _line(self, draw: Random, names: Sequence[str]) -> Line:
        first, second = draw.choice(names), draw.choice((*names, *DIGITS[1:6]))
        line = Line(draw.choice(names), first, draw.choice(list(OPERATIONS)), second)
        kind = draw.random()
        if kind < self.loops:
            return line._replace(first=line.variable, times=draw.randint(2, 3))
        if kind < self.loops + self.conditions:
            condition, bound = draw.choice(list(CONDITIONS)), draw.choice(DIGITS[2:8])
            return line._replace(left=draw.choice(names), condition=condition, right=bound)
        return line
