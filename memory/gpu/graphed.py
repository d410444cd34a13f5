"""Chunks of steps as CUDA graphs: a memory whose state is a value, without the host in between.

A step of a memory is many small operations, and on a GPU starting them takes longer than doing
them. Here a chunk of steps is recorded once, its forward and its backward, and then replayed; the
step may be compiled first, so that there are fewer operations. Values and gradients are those of
the plain steps. Where there is no GPU the plain steps are taken.

    fast = fastest(dnc, steps=32)
    state, values_BTW = fast.outputs(dnc.initial_state(32, "cuda"), items_BTI)
    loss(values_BTW).backward()

Any working memory will do whose step asks nothing of the host. This file knows no equation of any.
Letters: B rows, I item size, W word size, T items, C items of a chunk.
"""

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.func import functional_call

from stillknows.memory.dnc import DNC
from stillknows.memory.interface import Policy, map_state

Take = Callable[[Any, Tensor], tuple[Any, Tensor]]

_TRITON = importlib.util.find_spec("triton") is not None
_WARM = 3  # runs before a recording, in which kernels are compiled and libraries begin


class Recording(Protocol):
    """Work that was done once and can be done again on what its tensors then hold."""

    def replay(self) -> None:
        """Do it again."""
        ...


Record = Callable[[Callable[[], None], Any], Recording]


class Graphed:
    """Takes items in chunks, each of them two CUDA graphs.

    The first call for a shape records, which takes seconds (with `compiled` up to a minute). Each
    chunk of a sequence has buffers of its own, which keep what its gradient needs, so between
    `outputs` and its `backward` no other batch of the shape may be taken.

    The weights may change in place, as optimizers change them; if they move, all is recorded anew.

    Attributes:
        step: what takes one item of a chunk, compiled or not.

    Args:
        memory: a working memory; a module or not.
        steps: items of a chunk (C). What is left of a sequence is a chunk of its own.
        policy: as in `memory.step`; it too asks nothing of the host.
        compiled: whether `torch.compile` fuses the operations of a step first.
        take: what takes a chunk where there is a GPU, `take(state, items_BCI)` as `outputs`, such
            as `FusedDNC(memory).take`; None: step after step.
        record: does work once and returns what does it again; None: CUDA graphs, on a GPU.

    Raises:
        ValueError: if `steps` is below 1.
    """

    def __init__(
        self,
        memory: Any,
        steps: int = 32,
        policy: Policy | None = None,
        compiled: bool = True,
        take: Take | None = None,
        record: Record | None = None,
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps={steps}: a chunk has at least one step.")
        self.memory, self.steps, self.policy = memory, steps, policy
        self._record = record
        self._flat = torch.compile(self._flat_step, dynamic=False)
        self.step: Take = self._compiled_step if compiled else self._plain_step
        self._take: Take = take or partial(_take, self.step)
        self._tapes: dict[Any, _Tape] = {}

    def outputs(self, state: Any, items_BTI: Tensor) -> tuple[Any, Tensor]:
        """Take T items one by one; return the output (the last read) of every step.

        Args:
            state: before the first; it stays as it was.
            items_BTI: `[B, T, I]`, T at least 1.

        Returns:
            The state after the last, and `[B, T, W]`.

        Raises:
            RuntimeError: in `backward`, if another batch was taken in between.
        """
        if self._record is None and items_BTI.device.type != "cuda":
            return _take(self._plain_step, state, items_BTI)
        values = []
        for place, items_BCI in enumerate(torch.split(items_BTI, self.steps, dim=1)):
            state, values_BCW = self._tape(place, state, items_BCI).play(state, items_BCI)
            values.append(values_BCW)
        return state, torch.cat(values, dim=1)

    def _plain_step(self, state: Any, item_BI: Tensor) -> tuple[Any, Tensor]:
        state, read = self.memory.step(state, item_BI, self.policy)
        return state, read.values_BRW[:, -1]

    def _compiled_step(self, state: Any, item_BI: Tensor) -> tuple[Any, Tensor]:
        """Take `_plain_step` with a compiler that is shown tensors alone."""
        *parts, value_BW = self._flat(_kinds(state), tuple(_tensors(state)), item_BI)
        return _state_of(state, iter(parts)), value_BW

    def _flat_step(self, kinds: Any, parts: tuple[Tensor, ...], item_BI: Tensor) -> list[Tensor]:
        state, value_BW = self._plain_step(_state_from(kinds, list(parts)), item_BI)
        return [*_leaves(state), value_BW]

    def _tape(self, place: int, state: Any, items_BCI: Tensor) -> "_Tape":
        """Return the buffers of the chunk at a place, recorded now if they are not yet."""
        modules = [each for each in (self.memory, self.policy) if isinstance(each, nn.Module)]
        work = _Work(self._take, modules)
        weights = list(work.parameters())
        tensors = [*_tensors(state), items_BCI]
        shapes = tuple((tuple(each.shape), each.dtype, each.device) for each in tensors)
        where = tuple((weight.data_ptr(), weight.requires_grad) for weight in weights)
        modes = tuple((m.training, getattr(m, "linear_start", None)) for m in modules)
        key = (place, shapes, where, modes)
        if key not in self._tapes:
            self._tapes[key] = _Tape(work, state, items_BCI, self._record or _graph)
        return self._tapes[key]


def fastest(memory: Any, steps: int = 32, policy: Policy | None = None) -> Graphed:
    """Return what takes chunks of a memory fastest on a GPU.

    That is kernels of its own (`dnc_fused.py`) where there are some for this memory and Triton is
    there; else compiled steps.

    Args:
        memory: a working memory.
        steps: items of a chunk.
        policy: as in `memory.step`; the kernels know of none.

    Raises:
        ValueError: if `steps` is below 1.
    """
    if _TRITON and policy is None and type(memory) is DNC:
        from stillknows.memory.gpu.dnc_fused import FusedDNC, fits

        if fits(memory):
            return Graphed(memory, steps, compiled=False, take=FusedDNC(memory).take)
    return Graphed(memory, steps, policy)


class _Work(nn.Module):
    """What takes a chunk, and the modules whose weights it uses."""

    def __init__(self, take: Take, modules: list[nn.Module]) -> None:
        super().__init__()
        self._take, self.users = take, nn.ModuleList(modules)

    def forward(self, state: Any, items_BCI: Tensor) -> tuple[Any, Tensor]:
        return self._take(state, items_BCI)


class _Place(NamedTuple):
    """Where a chunk is recorded: a stream, and what its graphs share of the memory."""

    stream: torch.cuda.Stream
    pool: Any


class _Tape:
    """One chunk with buffers of its own: what goes in, what comes out, and both ways recorded.

    A gradient is gathered on the stream where its weight was first used, and a recording must not
    reach another stream; so what is recorded uses twins of the weights, which share their numbers.

    Args:
        work: takes a chunk.
        state: like those that will come.
        items_BCI: like those that will come.
        record: does work once and returns what does it again.
    """

    def __init__(self, work: _Work, state: Any, items_BCI: Tensor, record: Record) -> None:
        self._work, self._like = work, state
        self.weights: list[Tensor] = [each for each in work.parameters() if each.requires_grad]
        self._twins = {
            name: weight.detach().requires_grad_(weight.requires_grad)
            for name, weight in work.named_parameters()
        }
        self.inputs = [_buffer(each) for each in (*_tensors(state), items_BCI)]
        leaves = *self.inputs, *self._twins.values()
        self._learned = [each for each in leaves if each.requires_grad]
        self.outputs: list[Tensor] = []
        self.given: list[Tensor | None] = []
        self.gradients: list[Tensor | None] = []
        self.turn = 0
        place = self._warm(items_BCI.device)
        self._forward = record(self._go_forward, place)
        self._backward = record(self._go_backward, place)

    def play(self, state: Any, items_BCI: Tensor) -> tuple[Any, Tensor]:
        """Take a chunk of items; return the state after it and `[B, C, W]`."""
        outputs = _Play.apply(self, *_tensors(state), items_BCI, *self.weights)
        *parts, values_BCW = outputs
        return _state_of(self._like, iter(parts)), values_BCW

    def take(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Replay the forward with these inputs; return copies of the outputs."""
        for buffer, tensor in zip(self.inputs, tensors, strict=True):
            buffer.detach().copy_(tensor)
        self._forward.replay()
        self.turn += 1
        return [each.detach().clone() for each in self.outputs]

    def pull(self, given: Sequence[Tensor | None]) -> list[Tensor | None]:
        """Replay the backward with gradients of the outputs; return those of inputs and weights."""
        for buffer, gradient in zip(self.given, given, strict=True):
            if buffer is not None:
                buffer.zero_() if gradient is None else buffer.copy_(gradient)
        self._backward.replay()
        self.turn += 1  # what the gradient needed is spent
        found = iter(self.gradients)
        all_of = (next(found) if each.requires_grad else None for each in self.inputs)
        return [None if each is None else each.clone() for each in (*all_of, *found)]

    def _warm(self, device: torch.device) -> _Place | None:
        """Run both ways aside, and return where to record."""
        if device.type != "cuda":
            self._both()
            return None
        side = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        side.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(side):
            for _ in range(_WARM):
                self._both()
        torch.cuda.current_stream(device).wait_stream(side)
        self.outputs, self.gradients = [], []
        return _Place(side, torch.cuda.graph_pool_handle())

    def _both(self) -> None:
        self._go_forward()
        self.given = [torch.zeros_like(x) if x.requires_grad else None for x in self.outputs]
        self._go_backward()

    def _go_forward(self) -> None:
        *parts, items_BCI = self.inputs
        with torch.enable_grad():
            chunk = _state_of(self._like, iter(parts)), items_BCI
            state, values_BCW = functional_call(self._work, self._twins, chunk)
        self.outputs = [*_tensors(state), values_BCW]

    def _go_backward(self) -> None:
        pairs = zip(self.outputs, self.given, strict=True)
        wanted = [(output, given) for output, given in pairs if given is not None]
        self.gradients = list(
            torch.autograd.grad(
                [output for output, _ in wanted],
                self._learned,
                [given for _, given in wanted],
                allow_unused=True,
            )
        )


class _Play(torch.autograd.Function):
    """One replay, as a node of the caller's graph."""

    @staticmethod
    def forward(ctx: Any, tape: _Tape, *tensors: Tensor) -> tuple[Tensor, ...]:
        ctx.set_materialize_grads(False)
        outputs = tape.take(tensors[: len(tape.inputs)])
        pairs = zip(outputs, tape.given, strict=True)
        ctx.mark_non_differentiable(*(each for each, given in pairs if given is None))
        ctx.tape, ctx.turn = tape, tape.turn
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *given: Tensor | None) -> tuple[Tensor | None, ...]:
        if ctx.turn != ctx.tape.turn:
            raise RuntimeError(
                "What this gradient needs is gone: another batch was taken with this `Graphed`, or "
                "the gradient was taken already. Call backward right after outputs, or give the "
                "other batch a `Graphed` of its own."
            )
        return (None, *ctx.tape.pull(given))


def _graph(work: Callable[[], None], place: Any) -> Recording:
    """Record work on a GPU."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=place.pool, stream=place.stream):
        work()
    return graph


def _take(step: Take, state: Any, items_BTI: Tensor) -> tuple[Any, Tensor]:
    """Take items one by one; return the state and the outputs, `[B, T, W]`."""
    values = []
    for item_BI in items_BTI.unbind(dim=1):
        state, value_BW = step(state, item_BI)
        values.append(value_BW)
    return state, torch.stack(values, dim=1)


def _buffer(tensor: Tensor) -> Tensor:
    """Return a tensor like another, with room of its own; floats want a gradient."""
    own = tensor.detach().clone(memory_format=torch.contiguous_format)
    return own.requires_grad_(own.is_floating_point())


def _tensors(state: Any) -> list[Tensor]:
    """Return the tensors of a state in their order."""
    found: list[Tensor] = []

    def note(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    map_state(note, state)
    return found


def _state_of(like: Any, tensors: Iterator[Tensor]) -> Any:
    """Return a state of the same kind as another with other tensors."""
    return map_state(lambda _: next(tensors), like)


def _leaves(state: Any) -> list[Tensor]:
    """Return what `_tensors` does, in a way that a compiler follows."""
    return [state] if isinstance(state, Tensor) else [x for part in state for x in _leaves(part)]


def _kinds(state: Any) -> Any:
    """Return the types that a state is built of: of a NamedTuple its own and those of its parts."""
    return None if isinstance(state, Tensor) else (type(state), tuple(map(_kinds, state)))


def _state_from(kinds: Any, parts: list[Tensor]) -> Any:
    """Return a state of these kinds; its tensors are taken from the front of the list."""
    if kinds is None:
        return parts.pop(0)
    own, inner = kinds
    return own(*[_state_from(each, parts) for each in inner])
