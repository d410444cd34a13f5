"""The guard on examinations: what must not change while an agent is examined, or must not be read.

Weights, running statistics, what policies keep, the lifelong store, the optimiser and the random
states are noted before and compared after (`stillknows.memory.checks.notes`); the first that differ
are named. The usual note is cheap enough for every examination, and misses what is written past
PyTorch's counters (`tensor.data`); `whole=True` hashes all content. The identity of the task is
sealed meanwhile: whoever reads it is stopped.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

from stillknows.agents.agent import MemoryAgent
from stillknows.memory.checks.notes import (
    Note,
    changed,
    note_module,
    note_parts,
    note_value,
    random_states,
)

_READ = (
    "The task's identity was read during an examination: no agent and no policy may know which "
    "task it is in."
)
_SHOWN = 3  # names in an error


class TrespassError(ValueError):
    """An examination left a trace, or somebody asked which task it was."""


class Sealed:
    """Stands for the number of a task during an examination: to use it is an error."""

    def _refuse(self, *_: Any) -> NoReturn:
        raise TrespassError(_READ)

    __int__ = __index__ = __float__ = __bool__ = __eq__ = __hash__ = __lt__ = __gt__ = _refuse
    __add__ = __radd__ = __sub__ = __str__ = __format__ = _refuse


@contextmanager
def untouched(agent: MemoryAgent, optimizer: Any = None, whole: bool = False) -> Iterator[None]:
    """See that nothing of an agent changes for as long as this lasts, and that no task is read.

    Args:
        agent: who is examined.
        optimizer: of its learner, if there is one.
        whole: compare all content, which takes time with the size of agent and store.

    Raises:
        TrespassError: if something changed, by its name, or the task of an entry was asked for.
    """
    exact = whole or agent.adaptation is not None  # it moves the weights, and puts them back
    before = note(agent, optimizer, exact)
    with _sealed(agent.episodic_memory):
        try:
            yield
        except TypeError as error:  # who takes numbers only says what it was given instead
            if Sealed.__name__ in str(error):
                raise TrespassError(_READ) from error
            raise
    after = note(agent, optimizer, exact)
    names = changed(before, after)
    if names:
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        raise TrespassError(
            f"An examination changed {', '.join(names[:_SHOWN])}{more}: it should leave no trace."
        )


def note(agent: MemoryAgent, optimizer: Any = None, whole: bool = False) -> Note:
    """Return what stands for the state of everything that an examination leaves alone, by name."""
    noted: Note = {}
    note_module(noted, "the weights or statistics ", agent, whole)
    store: Any = agent.episodic_memory
    for name, owner in (
        ("the working policy", getattr(agent.working_policy, "policy", agent.working_policy)),
        ("the store", store),
        ("the store's policy", getattr(store, "policy", None)),
    ):
        note_parts(noted, name, owner, whole)
    for number, part in enumerate(getattr(optimizer, "parts", [optimizer])):
        if part is not None:
            _note_optimizer(noted, f"the optimiser ({number})", part, whole)
    return noted | random_states(agent.device)


def _note_optimizer(noted: Note, name: str, optimizer: Any, whole: bool) -> None:
    for number, group in enumerate(optimizer.param_groups):
        for key, value in group.items():
            if key != "params":
                note_value(noted, f"{name}: group {number} {key}", value, whole)
    for number, state in enumerate(optimizer.state.values()):
        note_value(noted, f"{name}: state {number}", state, whole)


@contextmanager
def _sealed(store: Any) -> Iterator[None]:
    """Let nobody read from which task the entries of a store came."""
    if store is None or not hasattr(store, "provenance"):
        yield
        return
    plain = store.provenance

    def provenance(name: str) -> Any:
        return Sealed()._refuse() if name == "task" else plain(name)

    store.provenance = provenance
    try:
        yield
    finally:
        del store.provenance
