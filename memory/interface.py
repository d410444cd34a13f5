"""What every memory and every policy agrees on: reads, decisions, features.

This file knows nothing of agents or environments. Letters in names of tensors:
B rows of a batch, N slots, W word size, R reads (heads or hops), K slots a read came from,
T time steps, F outcome features.
"""

import math
from typing import Any, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from stillknows.memory import noise

SKIP, ADD, UPDATE, MERGE = range(4)
ACTIONS = ("skip", "add", "update", "merge")
STUMBLES = (TypeError, AttributeError, LookupError, ArithmeticError, RuntimeError)
S = TypeVar("S")


class Read(NamedTuple):
    """What came back from a memory, and from where.

    Attributes:
        values_BRW: what was read, `[B, R, W]`.
        slots_BRK: the slots each read came from, `[B, R, K]`, integers.
        weights_BRK: with which weight, `[B, R, K]`, non-negative, at most 1 in sum.
    """

    values_BRW: Tensor
    slots_BRK: Tensor
    weights_BRK: Tensor


class Features(NamedTuple):
    """What a policy may see. Nothing here carries a gradient, and nothing names the task.

    Randomness is a feature too (`noise_BM`, uniform in [0, 1), M = N + 1: one number for each
    slot and one for the write), so that a decision can be replayed and does not depend on the
    order or the size of the batch.

    Attributes:
        candidate_BW: the item that asks to be written, `[B, W]`.
        similarity_BN: cosine similarity of the candidate to each slot, 0 where empty, `[B, N]`.
        usage_BN: how much each slot was used, in reads (weights summed), `[B, N]`.
        age_BN: steps since each slot was written, 0 where empty, `[B, N]`.
        idle_BN: steps since each slot was last read (or written), 0 where empty, `[B, N]`.
        filled_BN: which slots hold something, bool `[B, N]`.
        seen_B: how many candidates came before this one, `[B]`.
        noise_BM: uniform numbers, `[B, N + 1]`.
        known_B: the slot that already holds this very item, or -1, integers `[B]`.
        outcome_BF: only for a lifelong store, when the answer is marked: loss, reward and
            temporal-difference error, `[B, 3]`; None for a working memory.
        strength_BN: the probability with which each slot was written, 0 where empty, `[B, N]`;
            None where the memory keeps none.
        namesakes_BM: only for a lifelong store whose policy `needs_namesakes`: how many entries
            hold the question that each slot holds, itself included, 0 where empty, and last how
            many hold the candidate's, `[B, N + 1]`.
        peers_BM: only for a lifelong store whose policy `needs_peers`: how many entries hold the
            answer that each slot holds, itself included, 0 where empty, and last how many hold the
            candidate's, `[B, N + 1]`.
        content_BNW: what each slot holds, `[B, N, W]`; None for a policy that does not say
            `needs_content = True`, and in a lifelong store.
        noted: what the policy made of all contents that it may meet (`noted_by`), None where it
            looks at each itself.
        place_BM: where among these each slot's content stands, and last the candidate's, int64
            `[B, N + 1]`: what is empty before all others, and what came later stands later.
    """

    candidate_BW: Tensor
    similarity_BN: Tensor
    usage_BN: Tensor
    age_BN: Tensor
    idle_BN: Tensor
    filled_BN: Tensor
    seen_B: Tensor
    noise_BM: Tensor
    known_B: Tensor
    outcome_BF: Tensor | None = None
    strength_BN: Tensor | None = None
    namesakes_BM: Tensor | None = None
    peers_BM: Tensor | None = None
    content_BNW: Tensor | None = None
    noted: Any = None
    place_BM: Tensor | None = None


class Decision(NamedTuple):
    """What shall happen to the candidate.

    Attributes:
        action_B4: probabilities (or a one-hot sample) over skip, add, update, merge, `[B, 4]`.
        slot_BN: where to update or merge, or the free slot of an add, `[B, N]`.
        victim_BN: who leaves if an add finds no room, `[B, N]`.
        log_prob_B: log-probability of the sampled decision, 0 for a rule, `[B]`.
    """

    action_B4: Tensor
    slot_BN: Tensor
    victim_BN: Tensor
    log_prob_B: Tensor


class Policy(Protocol):
    """Decides about one candidate a row; see `policies/rules.py` and `policies/learned.py`."""

    def decide(self, features: Features) -> Decision:
        """Return the decision for every row of `features`."""
        ...


def decided(policy: Policy, features: Features, soft: bool = False) -> Decision:
    """Return what a policy decides, if it can be done.

    Numbers are looked at on the CPU only: on a GPU that would wait for each step.

    Args:
        policy: who decides.
        features: from what.
        soft: whether the memory writes everywhere a little, so that no slot is ever empty: any may
            be updated, and any wiped.

    Raises:
        ValueError: with the name of the policy and the number of the candidate, if the decision has
            other shapes, holds NaN, infinity or less than nothing, lets an empty slot leave, or
            updates or merges an empty one, or is none. The memory is as it was.
    """
    decision = _asked(policy, features)
    rows, slots = features.filled_BN.shape
    wanted = ((rows, 4), (rows, slots), (rows, slots), (rows,))
    if tuple(part.shape for part in decision) != wanted:
        raise ValueError(
            f"{type(policy).__name__} names slots or actions that are not there: its decision has "
            f"the shapes {[list(part.shape) for part in decision]} instead of "
            f"{[list(shape) for shape in wanted]}."
        )
    if features.filled_BN.device.type == "cpu":
        empty_BN = torch.zeros_like(features.filled_BN) if soft else ~features.filled_BN
        told = Decision(*(part.detach() for part in decision))
        if not _surely_possible(told, empty_BN):
            _expect_possible(type(policy).__name__, told, empty_BN, features.seen_B)
    return decision


def _asked(policy: Policy, features: Features) -> Decision:
    """Return what a policy decides; what it stumbles over is told by its name."""
    name = type(policy).__name__
    try:
        decision: Any = policy.decide(features)
    except STUMBLES as error:
        if type(policy).__module__.startswith("stillknows."):
            raise
        absent = ", ".join(name for name, part in features._asdict().items() if part is None)
        told = str(error) if isinstance(error, (TypeError, AttributeError)) else repr(error)
        raise ValueError(f"{name} raised {told}; of the features, None are: {absent}.") from error
    if not isinstance(decision, Decision):
        raise ValueError(f"{name} decides {decision!r}, which is no Decision: return one.")
    return decision


def _surely_possible(decision: Decision, empty_BN: Tensor) -> bool:
    """Return whether nothing can be wrong, by a look at the whole: most decisions pass."""
    action_B4, slot_BN, victim_BN, log_prob_B = decision
    for numbers in (action_B4, slot_BN, victim_BN, log_prob_B.abs()):
        if not (float(numbers.amin()) >= 0 and float(numbers.amax()) < math.inf):  # NaN is neither
            return False
    if not empty_BN.any():
        return True
    return not (victim_BN * empty_BN).any() and not action_B4[:, UPDATE:].any()


def _expect_possible(name: str, decision: Decision, empty_BN: Tensor, seen_B: Tensor) -> None:
    action_B4, slot_BN, victim_BN, log_prob_B = decision
    lowest_B = torch.cat([action_B4, slot_BN, victim_BN], dim=1).amin(dim=1)
    whole_B = action_B4.sum(1) + slot_BN.sum(1) + victim_BN.sum(1) + log_prob_B
    action_B = action_B4.argmax(dim=1)
    meets_B = (action_B == UPDATE) | (action_B == MERGE)
    evicts_B = (action_B == ADD) & (slot_BN.sum(dim=1) <= 0)  # else nobody needs to leave
    faults = {
        "holds a number that is NaN, infinite or below 0": ~whole_B.isfinite() | (lowest_B < 0),
        "lets an empty slot leave": evicts_B & ((victim_BN * empty_BN).sum(dim=1) > 0),
        "updates or merges an empty slot": meets_B & ((slot_BN * empty_BN).sum(dim=1) > 0),
    }
    for fault, wrong_B in faults.items():
        if wrong_B.any():
            step = int(seen_B[wrong_B.nonzero()[0, 0]])
            raise ValueError(f"{name} {fault}, at candidate {step}: the memory is left as it was.")


def needs(policy: Policy, feature: str) -> bool:
    """Return whether a policy looks at `similarity` or `noise`, which take time to compute.

    It does unless it says otherwise, by an attribute such as `needs_similarity = False`.
    """
    return bool(getattr(policy, f"needs_{feature}", True))


def needs_content(policy: Policy) -> bool:
    """Return whether a policy looks at what the slots hold; it does not unless it says so."""
    return bool(getattr(policy, "needs_content", False))


def noted_by(policy: Policy, content_BPW: Tensor) -> Any:
    """Return what a policy makes of contents before it decides about them, None if it does not.

    What can be worked out of contents alone need not be worked out at each decision: a policy may
    have a method `note` for it, and finds what that returned in `Features.noted`.

    Args:
        policy: who decides.
        content_BPW: what the slots hold, in the order in which it was written, what is empty first;
            then what will be offered, in its order.
    """
    note = getattr(policy, "note", None)
    return None if note is None else note(content_BPW.detach())


def needs_peers(policy: Policy) -> bool:
    """Return whether a policy counts the entries that share an answer; only if it says so."""
    return bool(getattr(policy, "needs_peers", False))


def leaves_first(policy: Policy) -> str | None:
    """Return the provenance by which entries leave, lowest first, if that is all a policy decides.

    A class that says so, `leaves_first = "birth"` in its own body, writes everything, and is not
    asked about every slot; a class derived from it is, unless it says so again.
    """
    return vars(type(policy)).get("leaves_first")


def fills_room(policy: Policy) -> bool:
    """Return whether a policy writes everything while there is room: it is not asked then.

    A class says so in its own body, `fills_room = True` or a property; `leaves_first` implies it.
    """
    says = "fills_room" in vars(type(policy))
    return leaves_first(policy) is not None or (says and bool(getattr(policy, "fills_room", 0)))


def noise_for(policy: Policy, key_B: Tensor, step_B: Tensor, slots: int) -> Tensor:
    """Return `noise_BM` of `Features`, `[B, N + 1]`; zeros for a policy that does not need it."""
    if needs(policy, "noise"):
        return noise.uniform(key_B, step_B, slots + 1)
    return torch.zeros(1, 1, device=key_B.device).expand(len(key_B), slots + 1)


class WorkingMemory(Protocol):
    """A memory for the episode: its state is a value, a NamedTuple of tensors.

    `step` takes one item; `sequence` takes `T` of them and returns the read of the last. Both
    leave their input state as it was.

    Attributes:
        word_size: numbers in one read (W).
        reads: reads of one step (R).
    """

    word_size: int
    reads: int

    def initial_state(
        self, batch: int, device: torch.device | str = "cpu", key_B: Tensor | None = None
    ) -> Any:
        """Return an empty memory for `batch` rows; `key_B` (int64 `[B]`) names the episodes."""
        ...

    def step(self, state: Any, item_BW: Tensor, policy: Policy) -> tuple[Any, Read]:
        """Write and read one item in the order of the memory's own paper."""
        ...

    def sequence(
        self, state: Any, items_BTW: Tensor, present_BT: Tensor, policy: Policy
    ) -> tuple[Any, Read]:
        """Take `T` items; where `present_BT` is False the state stays as it was."""
        ...


def placed(numbers: Any, device: torch.device) -> Tensor:
    """Return whole numbers, int64, on a device; a GPU takes them without the host's waiting."""
    tensor = torch.tensor(numbers, dtype=torch.int64)
    if device.type == "cpu":
        return tensor
    return tensor.pin_memory().to(device, non_blocking=True)


def one_hot(index_B: Tensor, size: int) -> Tensor:
    """Return floats `[B, size]` with a 1 at `index_B`; an index of -1 gives a row of zeros."""
    row_B = torch.arange(len(index_B), device=index_B.device)
    nothing_BX = torch.zeros(len(index_B), size, device=index_B.device)
    return nothing_BX.index_put_((row_B, index_B), (index_B >= 0).float())


def written(features: Features, kept_B: Tensor, urgency_BN: Tensor) -> Decision:
    """Return one-hot decisions: where it is kept, the candidate is added, else it is skipped.

    Args:
        features: of the candidates.
        kept_B: which are kept; bool.
        urgency_BN: who leaves where no slot is free: the most urgent, of equals the first.
    """
    action_B4 = one_hot(kept_B * ADD, 4)  # SKIP is 0
    nothing_B = action_B4.new_zeros(len(kept_B))
    return Decision(action_B4, *slot_and_victim(features, kept_B, urgency_BN), nothing_B)


def slot_and_victim(
    features: Features, kept_B: Tensor, urgency_BN: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the slots and the victims of decisions, as `written` has them."""
    urgency_BN = urgency_BN.masked_fill(~features.filled_BN, torch.inf)  # what is free comes first
    place_B1 = urgency_BN.argmax(dim=1, keepdim=True)
    slots = torch.arange(urgency_BN.shape[1], device=kept_B.device)
    place_BN = ((place_B1 == slots) & kept_B[:, None]).float()
    victim_BN = place_BN * features.filled_BN.all(dim=1, keepdim=True)
    return place_BN - victim_BN, victim_BN


def map_state(function: Any, state: Any) -> Any:
    """Apply `function` to every tensor of a state (a NamedTuple, possibly nested)."""
    if isinstance(state, Tensor):
        return function(state)
    return type(state)(*(map_state(function, part) for part in state))


def typed_as(module: nn.Module, state: S) -> S:
    """Return a state whose real numbers have the type of a module's: float64 after `.double()`."""
    real = (each.dtype for each in module.parameters() if each.is_floating_point())
    kind = next(real, torch.get_default_dtype())
    typed: S = map_state(lambda each: each.to(kind) if each.is_floating_point() else each, state)
    return typed


def detach(state: Any) -> Any:
    """Return the same state without its history."""
    return map_state(Tensor.detach, state)


def reset_rows(state: Any, fresh: Any, ended_B: Tensor) -> Any:
    """Return `state` with the rows where `ended_B` is True taken from `fresh`."""
    if isinstance(state, Tensor):
        ended = ended_B.reshape(-1, *[1] * (state.dim() - 1))
        return torch.where(ended, fresh, state)
    return type(state)(*(reset_rows(s, f, ended_B) for s, f in zip(state, fresh, strict=True)))
