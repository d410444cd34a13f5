"""What a file from a stranger may ask for: classes of this project, and no more memory than it is.

Agents, checkpoints and runs name the classes that they are built of. Only those are built that
belong there, from this project and from modules that the reader allows; see docs/security.md.
"""

import pydoc
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors

from stillknows.agents.controllers.controller import Controller

_AGENT = ("stillknows.memory", "stillknows.agents.fuse", "stillknows.agents.adaptation")
_PLUGINS = ("avalanche.core", "avalanche.training.plugins.evaluation")
_ACTING = ("recurrent_ppo.RecurrentPPO", "rehearsal.Rehearsal", "recollection.Recall")
_FREE = 1 << 28  # bytes that any file may ask for


def refuse_foreign(config: Any, allow: Sequence[str] = (), run: bool = False) -> None:
    """Raise a ValueError if a configuration from a file names what is not allowed.

    Args:
        config: dictionaries, lists and plain values.
        allow: modules besides this project's whose classes it may name.
        run: whether it is that of a run: with tasks, a learner and plugins.
    """
    if isinstance(config, str) and "${" in config:
        raise ValueError(f"The file asks for {config!r}, and a file holds no questions: leave it.")
    if isinstance(config, dict):
        if "_target_" in config:
            _refuse_target(str(config["_target_"]), allow, run)
        _refuse_modules(config.get("ids"), allow)
        _refuse_modules([config.get("stories")], allow)  # that `MemoryControl` is about
    parts = config.values() if isinstance(config, dict) else config
    for part in parts if isinstance(config, dict | list | tuple) else ():
        refuse_foreign(part, allow, run)


@contextmanager
def bounded(allowed: int) -> Iterator[None]:
    """Refuse to make tensors of many times so many bytes, before they are made.

    Raises:
        ValueError: from whatever asks for more within the context.
    """
    with _Bounded(4 * allowed + _FREE):
        yield


class _Bounded(TorchFunctionMode):
    """Counts what constructors of tensors ask for, by asking on a device without memory."""

    def __init__(self, allowed: int) -> None:
        super().__init__()
        self.left = allowed

    def __torch_function__(
        self, func: Any, types: Any, args: Any = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _device_constructors() and func is not torch.tensor and "out" not in kwargs:
            asked = {k: v for k, v in kwargs.items() if k not in ("generator", "pin_memory")}
            self.left -= func(*args, **{**asked, "device": "meta"}).nbytes
            if self.left < 0:
                raise ValueError("It asks for far more memory than it holds numbers.")
        return func(*args, **kwargs)


def _refuse_target(target: str, allow: Sequence[str], run: bool) -> None:
    if not _is_part(target, allow, run):
        what = "a run" if run else "an agent"
        raise ValueError(
            f"The file names {target}, which is no part of {what} in this project: if you "
            f"trust it, allow its module ({target.rpartition('.')[0]!r})."
        )


def _refuse_modules(ids: Any, allow: Sequence[str]) -> None:
    """Refuse Gymnasium ids that would import a module, `module:Name-v0`."""
    for entry in ids if isinstance(ids, list | tuple) else ():
        id = entry.get("id") if isinstance(entry, dict) else entry
        module = id.partition(":")[0] if isinstance(id, str) and ":" in id else ""
        if module and not _below(module, ("stillknows", *allow)):
            raise ValueError(
                f"The file names the environment {id}: if you trust it, allow its module "
                f"({module!r})."
            )


def _is_part(target: str, allow: Sequence[str], run: bool) -> bool:
    """Return whether a name is a class (or a constructor of one) that belongs there.

    Only the modules allowed are imported, and what a name leads to counts, not the name: other
    modules can be reached through those that import them.
    """
    if not _below(target, ("stillknows", *allow, *(("torch.optim",) if run else ()))):
        return False
    found = pydoc.locate(target)
    kind = found if isinstance(found, type) else getattr(found, "__self__", None)
    if not isinstance(kind, type):
        return run and _makes_tasks(found, allow)
    if _below(kind.__module__, (*_AGENT, *allow)) or issubclass(kind, Controller):
        return True
    return run and (issubclass(kind, Optimizer | LRScheduler) or _lives(kind))


def _lives(kind: type) -> bool:
    """Return whether this is one of the project's learners, or plugins of Avalanche's."""
    plugin = any(base.__module__ in _PLUGINS for base in kind.__mro__)
    acting = f"{kind.__module__}.{kind.__name__}" in [
        f"stillknows.agents.acting.{a}" for a in _ACTING
    ]
    return _below(kind.__module__, ("stillknows.agents",)) and (
        plugin or acting or kind.__name__.endswith("Learner")
    )


def _makes_tasks(found: Any, allow: Sequence[str]) -> bool:
    """Return whether this is a function that makes the tasks of a stream, or its benchmark."""
    module, name = getattr(found, "__module__", ""), getattr(found, "__name__", "")
    ours = _below(module, ("stillknows.envs",)) and name.endswith(("_tasks", "_benchmark"))
    return callable(found) and (ours or _below(module, tuple(allow)))


def _below(name: str, modules: Sequence[str]) -> bool:
    return any(f"{name}.".startswith(f"{module}.") for module in modules)
