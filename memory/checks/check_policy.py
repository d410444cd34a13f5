"""Whether a memory policy keeps its contract: small checks, each with a name, for anybody's policy.

`check_policy(policy)` runs them; from the command line it is `stillknows check working_policy=NAME`
or `stillknows check episodic_policy=NAME`. Letters as in `interface.py`.
"""

import copy
import io
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stillknows.memory.checks.check import run_check
from stillknows.memory.checks.check_bench import (
    expect,
    expect_near,
    expect_same,
    held_beside,
    tensors_in,
)
from stillknows.memory.checks.stateless import expect_stateless
from stillknows.memory.episodic import Candidates
from stillknows.memory.interface import (
    ADD,
    Decision,
    Features,
    decided,
    fills_room,
    leaves_first,
    one_hot,
)
from stillknows.memory.nec import NEC
from stillknows.memory.slots import Slots

_ROWS, _SLOTS = 6, 5


class PolicyBench(NamedTuple):
    """What a check works with.

    Attributes:
        policy: a copy that the check may spoil.
        width: of a candidate (W).
        lifelong: whether it manages a lifelong store: it then sees outcomes, and no contents.
        steps: candidates of the long run.
    """

    policy: Any
    width: int
    lifelong: bool
    steps: int

    def draw(self, filled: int, seed: int = 0) -> Features:
        """Return random features of so many filled slots, the same for the same seed."""
        source = torch.Generator().manual_seed(seed)

        def uniform(*shape: int) -> Tensor:
            return torch.rand(shape, generator=source)

        filled_BN = (torch.arange(_SLOTS) < filled).expand(_ROWS, -1).clone()
        count_BN = (uniform(_ROWS, _SLOTS) * 9 + 1).floor() * filled_BN
        known_B = (uniform(_ROWS) * 2 * filled).long() if filled else torch.full((_ROWS,), -1)
        known_B = torch.where(known_B < filled, known_B, -1)
        content_BNW = uniform(_ROWS, _SLOTS, self.width) * filled_BN[..., None]
        namesakes_BM = torch.nn.functional.pad(count_BN, (0, 1), value=1.0).long()
        return Features(
            candidate_BW=uniform(_ROWS, self.width) - 0.5,
            similarity_BN=(uniform(_ROWS, _SLOTS) * 2 - 1) * filled_BN,
            usage_BN=uniform(_ROWS, _SLOTS) * filled_BN,
            age_BN=count_BN,
            idle_BN=(count_BN * uniform(_ROWS, _SLOTS)).floor(),
            filled_BN=filled_BN,
            seen_B=(uniform(_ROWS) * 50).long() + filled,
            noise_BM=uniform(_ROWS, _SLOTS + 1),
            known_B=known_B,
            outcome_BF=uniform(_ROWS, 3) if self.lifelong else None,
            strength_BN=None if self.lifelong else uniform(_ROWS, _SLOTS) * filled_BN,
            namesakes_BM=namesakes_BM if self.lifelong else None,
            peers_BM=namesakes_BM if self.lifelong else None,
            content_BNW=None if self.lifelong else content_BNW,
        )


def check_decision(bench: PolicyBench) -> None:
    """Decisions are possible, and are probabilities, however full the memory is."""
    for filled in range(_SLOTS + 1):
        decision = decided(bench.policy, bench.draw(filled, seed=filled))
        for name, part in zip(("action_B4", "slot_BN", "victim_BN"), decision, strict=False):
            expect(
                bool((part.sum(dim=1) <= 1 + 1e-4).all()),
                f"{name} sums to {part.sum(dim=1).max():.4g} in a row; it holds probabilities.",
            )
        expect(
            bool((decision.log_prob_B <= 1e-4).all()),
            "log_prob_B is above 0; it is the logarithm of a probability.",
        )


def check_repeat(bench: PolicyBench) -> None:
    """The same features give the same decision: what is random is among them."""
    for filled in (0, _SLOTS):
        once = decided(bench.policy, bench.draw(filled))._asdict()
        for _ in range(3):
            again = decided(bench.policy, bench.draw(filled))._asdict()
            expect_same(again, once, "differs when it is asked again.")


def check_input(bench: PolicyBench) -> None:
    """Features stay as they are."""
    features = bench.draw(_SLOTS)
    decided(bench.policy, features)
    before = bench.draw(_SLOTS)._asdict()
    for name, part in features._asdict().items():
        same = part is None or torch.equal(part, before[name])
        expect(same, f"{name} of the features was changed: make a copy.")


def check_state(bench: PolicyBench) -> None:
    """A working policy is as it was after it has decided: an examination may change nothing."""
    if not bench.lifelong:
        expect_stateless(_slots(bench), bench.policy, bench.width)


def check_rows(bench: PolicyBench) -> None:
    """Each row is decided alone, whatever stands beside it."""
    for filled in (_SLOTS - 1, _SLOTS):
        features = bench.draw(filled)
        whole = _leaves(bench, features)
        for row in range(_ROWS):
            parts: Any = (x if x is None else x[row : row + 1] for x in features)
            one = Features(*parts)
            wanted = {name: part[row : row + 1] for name, part in whole.items()}
            expect_near(_leaves(bench, one), wanted, f"of row {row} depends on other rows.")


def check_noise(bench: PolicyBench) -> None:
    """A policy that says `needs_noise = False` decides the same whatever the noise is."""
    _expect_unneeded(bench, "needs_noise", "noise_BM")


def check_similarity(bench: PolicyBench) -> None:
    """A policy that says `needs_similarity = False` decides the same whatever is alike."""
    _expect_unneeded(bench, "needs_similarity", "similarity_BN")


def check_room(bench: PolicyBench) -> None:
    """A policy does what it says of itself: `fills_room` or, in a store, `leaves_first`."""
    if bench.lifelong:
        _expect_order(bench)
        return
    if not fills_room(bench.policy):
        return
    for filled in range(_SLOTS):
        features = bench.draw(filled)
        features = features._replace(known_B=torch.full_like(features.known_B, -1))
        decision = decided(bench.policy, features)
        free_B = (~features.filled_BN).float().argmax(dim=1)
        wanted = one_hot(torch.full_like(free_B, ADD), 4), one_hot(free_B, _SLOTS)
        same = torch.equal(decision.action_B4, wanted[0])
        same &= torch.equal(decision.slot_BN, wanted[1])
        expect(same, "does something else while there is room: do not say fills_room = True.")


def check_save(bench: PolicyBench) -> None:
    """Saved and loaded, a module decides the same."""
    if not isinstance(bench.policy, nn.Module):
        return
    before = _leaves(bench, bench.draw(_SLOTS))
    file = io.BytesIO()
    torch.save(bench.policy.state_dict(), file)
    file.seek(0)
    other = copy.deepcopy(bench.policy)
    with torch.no_grad():
        for tensor in (*other.parameters(), *tensors_in(other.state_dict()), *held_beside(other)):
            if tensor.is_floating_point():
                tensor.add_(1.0)
    other.load_state_dict(torch.load(file, weights_only=True))
    after = _leaves(bench._replace(policy=other), bench.draw(_SLOTS))
    what = "differs after state_dict and load_state_dict: register what it has learned."
    expect_same(after, before, what)


def check_long(bench: PolicyBench) -> None:
    """A real memory is managed for as many candidates as there are steps, and never overflows."""
    if bench.lifelong:
        _live_with_store(bench)
        return
    memory = _slots(bench)
    state = memory.initial_state(2)
    source = torch.Generator().manual_seed(0)
    for first in range(0, bench.steps, 50):
        count = min(50, bench.steps - first)
        items = torch.randn(2, count, bench.width, generator=source)
        here = torch.ones(2, count, dtype=torch.bool)
        state = memory.write(state, items, here, bench.policy)
        state, _ = memory.read(state, items[:, -1])


CHECKS: dict[str, Callable[[PolicyBench], None]] = {
    "decision": check_decision,
    "repeat": check_repeat,
    "input": check_input,
    "state": check_state,
    "rows": check_rows,
    "noise": check_noise,
    "similarity": check_similarity,
    "room": check_room,
    "save": check_save,
    "long": check_long,
}


def check_policy(
    policy: Any,
    width: int,
    lifelong: bool = False,
    steps: int = 10_000,
    report: Callable[[str], object] | None = None,
) -> list[str]:
    """Run every check on a policy, which stays as it was.

    Args:
        policy: of a working memory, or of a lifelong store.
        width: of a candidate.
        lifelong: which of them.
        steps: candidates of the long run.
        report: is called with the name of each check that was passed.

    Returns:
        The names of the checks that were passed.

    Raises:
        MemoryFault: at the first check that was not: its name, what is wrong, where to look.
    """
    passed = []
    for name, check in CHECKS.items():
        bench = PolicyBench(copy.deepcopy(policy), width, lifelong, steps)
        if hasattr(bench.policy, "begin"):
            bench.policy.begin(_SLOTS)
        run_check(name, check, bench, "policy")
        passed.append(name)
        if report is not None:
            report(name)
    return passed


def _expect_unneeded(bench: PolicyBench, says: str, name: str) -> None:
    """Expect the same decision without a feature, where the policy says that it needs none."""
    if getattr(bench.policy, says, True):
        return
    features = bench.draw(_SLOTS)
    without = features._replace(**{name: torch.zeros_like(getattr(features, name))})
    what = f"depends on {name}: do not say {says} = False."
    expect_same(_leaves(bench, without), _leaves(bench, features), what)


def _expect_order(bench: PolicyBench) -> None:
    """Expect of a policy that says `leaves_first` to write everything and let the oldest leave."""
    rank = leaves_first(bench.policy)
    if rank is None:
        return
    features = bench.draw(_SLOTS)
    features = features._replace(known_B=torch.full_like(features.known_B, -1))
    waited_BN = {"birth": features.age_BN, "last_use": features.idle_BN}[rank]
    decision = decided(bench.policy, features)
    left_B = (decision.victim_BN * waited_BN).sum(dim=1)
    holds = bool((decision.action_B4[:, ADD] == 1).all()) and torch.equal(left_B, waited_BN.amax(1))
    expect(holds, f"does something else where it is asked: do not say leaves_first = {rank!r}.")


def _leaves(bench: PolicyBench, features: Features) -> dict[str, Tensor]:
    decision: Decision = decided(copy.deepcopy(bench.policy), features)
    return decision._asdict()


def _slots(bench: PolicyBench) -> Slots:
    return Slots(_SLOTS, bench.width, hops=1, heads=1, recency=(0.0,))


def _live_with_store(bench: PolicyBench) -> None:
    store = NEC(
        capacity=20,
        key_size=bench.width,
        vector_size=2,
        answer_length=1,
        story_shape=(1, 2),
        policy=bench.policy,
        neighbours=3,
    )
    source = torch.Generator().manual_seed(0)
    for first in range(0, bench.steps, 10):
        key_BD = torch.randn(10, bench.width, generator=source)
        whole_B = torch.randint(40, (10,), generator=source)
        outcome_BF = torch.rand(10, 3, generator=source)
        number_B = torch.arange(first, first + 10)
        store.remember(
            Candidates(
                key_BD,
                torch.zeros(10, 2),
                whole_B[:, None] % 5 + 1,
                torch.ones(10, 1, 2, dtype=torch.int64),
                whole_B,
                outcome_BF,
                *(number_B,) * 3,
            )
        )
        store.recall(key_BD[:2])
        expect(len(store) <= 20, f"the store holds {len(store)} entries of 20.")
