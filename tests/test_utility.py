"""What a learned utility expects of entries, decides by it, and learns."""

import copy
import io

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from seen import N, features, full
from torch import Tensor

from stillknows.memory.interface import ADD, SKIP, UPDATE, Features, Policy, one_hot
from stillknows.memory.noise import uniform
from stillknows.memory.policies.learned import UtilityPolicy
from stillknows.memory.policies.rules import EvictOldest, EvictUniformly

# Utility: for a lifelong store


def utility(capacity: int = N, **options: float) -> UtilityPolicy:
    torch.manual_seed(0)
    settings = {"explore": 0.0, "floor": -100.0, "grace": 0, **options}
    policy = UtilityPolicy(**settings)  # type: ignore[arg-type]
    for part in policy.network[2:].parameters():
        torch.nn.init.uniform_(part, -0.25, 0.25)  # as if it had learned something
    policy.begin(capacity)
    return policy


def worth(policy: UtilityPolicy, *amounts: float) -> None:
    policy.uses_N.fill_(1e6)  # so often used that nothing is left of predictions
    policy.earned_N.copy_(1e6 * torch.tensor(amounts))


def utilities(policy: UtilityPolicy) -> list[float]:
    return policy.utility(policy.namesakes_N[None])[0].tolist()


def predicted(policy: UtilityPolicy, outcome: Tensor, namesakes: int = 1) -> float:
    signs = torch.cat([outcome, torch.tensor([namesakes]).log1p()])
    return policy.network(signs[None]).item()


def test_the_least_worth_leaves_or_the_candidate_does() -> None:
    policy, outcome = utility(), torch.tensor([0.3, 1.0, 0.2])
    asked = features(full(), outcome_BF=outcome[None], age_BN=torch.full((1, N), 9.0))
    guess = predicted(policy, outcome)
    worth(policy, guess + 2, guess - 1, guess - 2, guess - 2)
    decision = policy.decide(asked)
    assert decision.action_B4.argmax() == ADD
    assert decision.victim_BN.tolist() == [[0, 0, 1, 0]]
    assert decision.slot_BN.sum() == 0
    worth(policy, guess + 2, guess + 1, guess + 3, guess + 2)
    refused = policy.decide(asked)
    assert refused.action_B4.argmax() == SKIP
    assert refused.victim_BN.sum() + refused.slot_BN.sum() == 0


def test_a_free_slot_is_taken_and_what_is_known_refreshed() -> None:
    policy = utility()
    worth(policy, 9.0, 9.0, 9.0, 9.0)
    roomy = features(torch.tensor([[True, False, True, False]]), outcome_BF=torch.zeros(1, 3))
    decision = policy.decide(roomy)
    assert decision.action_B4.argmax() == ADD
    assert decision.slot_BN.tolist() == [[0, 1, 0, 0]]
    assert decision.victim_BN.sum() == 0
    assert policy.settled_N.tolist() == [1, 0, 1, 0]  # nothing became of what is not there
    known = features(full(), outcome_BF=torch.zeros(1, 3), known_B=torch.tensor([2]))
    decision = policy.decide(known)
    assert decision.action_B4.argmax() == UPDATE
    assert decision.slot_BN.tolist() == [[0, 0, 1, 0]]
    assert decision.victim_BN.sum() == 0


def test_rows_of_other_stores_are_decided_as_alone() -> None:
    policy = utility(grace=2)
    worth(policy, -9.0, -8.0, -7.0, -6.0)
    filled_BN = torch.tensor([[True] * 4, [True, False, True, True], [True] * 4])
    age_BN = torch.tensor([[9.0, 9, 9, 9], [9, 0, 9, 9], [0, 9, 9, 9]])
    asked = features(filled_BN, age_BN=age_BN, outcome_BF=torch.ones(3, 3))
    together = policy.decide(asked)
    assert together.victim_BN.tolist() == [[1, 0, 0, 0], [0, 0, 0, 0], [0, 1, 0, 0]]
    assert together.slot_BN.tolist() == [[0, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 0]]
    shared = asked._replace(filled_BN=filled_BN[:1].expand(3, -1), age_BN=age_BN[:1].expand(3, -1))
    assert policy.decide(shared).victim_BN.tolist() == [[1, 0, 0, 0]] * 3


def test_the_young_are_protected_even_from_exploration() -> None:
    policy = utility(grace=2)
    worth(policy, -9.0, -5.0, -7.0, -6.0)
    ages = torch.tensor([[1.0, 5.0, 2.0, 9.0]])
    asked = features(full(), outcome_BF=torch.zeros(1, 3), age_BN=ages)
    assert policy.decide(asked).victim_BN.tolist() == [[0, 0, 1, 0]]
    assert policy.settled_N.tolist() == [0, 1, 1, 1]
    policy.explore = 1.0
    all_young = policy.decide(asked._replace(age_BN=torch.zeros(1, N)))
    assert all_young.action_B4.argmax() == SKIP
    assert all_young.victim_BN.sum() == 0


def test_grace_is_at_most_half_the_capacity() -> None:
    policy = utility(grace=1000)
    worth(policy, -9.0, -9.0, -9.0, -9.0)
    asked = features(full(), outcome_BF=torch.zeros(1, 3), age_BN=torch.tensor([[1.0, 2, 0, 0]]))
    assert policy.decide(asked).victim_BN.tolist() == [[0, 1, 0, 0]]


def test_exploration_writes_its_share_of_the_refused() -> None:
    policy = utility(explore=0.2)
    worth(policy, 9.0, 8.0, 9.0, 9.0)
    rows = 4000
    asked = features(full(rows), outcome_BF=torch.zeros(rows, 3), age_BN=torch.ones(rows, N))
    decision = policy.decide(asked)
    assert decision.action_B4[:, ADD].mean().item() == pytest.approx(0.2, abs=0.025)  # 4 sigma
    assert decision.victim_BN.sum(0).tolist() == [0, decision.action_B4[:, ADD].sum(), 0, 0]


def test_what_is_worth_little_as_a_neighbour_is_a_reservoir_beside_what_is_worth_much() -> None:
    policy, rows, seen = utility(floor=0.5), 6000, 9
    asked = features(full(rows), outcome_BF=torch.zeros(rows, 3), age_BN=torch.ones(rows, N))
    asked = asked._replace(seen_B=torch.full((rows,), seen))
    assert predicted(policy, torch.zeros(3)) < 0.5
    for worths, plain in (((0.4, 0.9, 0.0, -0.2), [0, 2, 3]), ((0.1, 0.2, 0.3, 0.4), [0, 1, 2, 3])):
        worth(policy, *worths)
        decision = policy.decide(asked)
        share = len(plain) / (seen + 1)
        assert decision.action_B4[:, ADD].mean().item() == pytest.approx(
            share, abs=0.026
        )  # 4 sigma
        left_N = decision.victim_BN.sum(dim=0)
        assert left_N.sum() == decision.action_B4[:, ADD].sum()
        assert left_N[[slot for slot in range(N) if slot not in plain]].sum() == 0
        even = rows * share / len(plain)
        assert left_N[plain].tolist() == pytest.approx([even] * len(plain), rel=0.12)


def test_what_is_expected_to_be_worth_recall_is_written_whatever_the_chance() -> None:
    policy, outcome = utility(floor=0.5), torch.zeros(3)
    with torch.no_grad():
        policy.network[2].bias += 0.6 - predicted(policy, outcome)
    asked = features(full(50), outcome_BF=outcome.expand(50, 3), age_BN=torch.ones(50, N))
    asked = asked._replace(seen_B=torch.full((50,), 10**9))
    for worths, victim in (((0.9, 0.2, 0.8, 0.7), 1), ((0.9, 0.8, 0.55, 0.7), 2)):
        worth(policy, *worths)
        decision = policy.decide(asked)
        assert decision.action_B4[:, ADD].all()
        assert decision.victim_BN.argmax(dim=1).tolist() == [victim] * 50
    worth(policy, 0.9, 0.8, 0.65, 0.7)
    assert policy.decide(asked).action_B4[:, SKIP].all()


def test_utility_needs_outcomes_a_prior_and_no_fewer_departures_than_none() -> None:
    with pytest.raises(ValueError, match="use it as episodic_policy"):
        utility().decide(features(full()))
    with pytest.raises(ValueError, match="prior=0"):
        UtilityPolicy(prior=0)
    with pytest.raises(ValueError, match="departures=-3 should be a whole number, at least 0"):
        UtilityPolicy(departures=-3)


def test_nothing_is_expected_of_anything_before_something_has_earned() -> None:
    policy = UtilityPolicy()
    policy.begin(N)
    policy.observe_write(torch.arange(N), torch.randn(N, 3))
    policy.settled_N.fill_(1)
    policy.learn()
    assert utilities(policy) == [0.0] * N
    policy.observe_credit(torch.tensor([1]), torch.tensor([0.5]), torch.tensor([1.0]))
    policy.learn()
    assert predicted(policy, policy.outcome_NF[1]) > 0


def test_a_new_entry_is_worth_what_is_predicted() -> None:
    policy = utility()
    worth(policy, 1.0, 2.0, 3.0, 4.0)
    outcome_BF = torch.tensor([[0.5, 1.0, 0.1], [50.0, 0.0, -30.0]])
    policy.observe_write(torch.tensor([3, 1]), outcome_BF)
    guesses = [predicted(policy, row) for row in outcome_BF.clamp(-10, 10)]
    worths = [1.0, guesses[1], 3.0, guesses[0]]
    assert utilities(policy) == pytest.approx(worths, rel=1e-5, abs=1e-4)
    assert policy.uses_N.tolist() == [1e6, 0, 1e6, 0]


def test_a_question_of_many_answers_is_worth_what_is_predicted_of_such() -> None:
    policy = utility()
    outcome_BF = torch.tensor([[0.5, 1.0, 0.0]]).expand(N, 3)
    policy.observe_write(torch.arange(N), outcome_BF)
    shared = features(full(), outcome_BF=outcome_BF[:1], age_BN=torch.full((1, N), 9.0))
    shared = shared._replace(namesakes_BM=torch.tensor([[1, 5, 2, 5, 0]]))
    policy.decide(shared)
    expected = [predicted(policy, outcome_BF[0], count) for count in (1, 5, 2, 5)]
    assert utilities(policy) == pytest.approx(expected, abs=1e-6)


BOOKINGS = st.lists(
    st.lists(
        st.tuples(st.integers(0, N - 1), st.floats(-1, 1), st.floats(0, 1)), min_size=1, max_size=6
    ),
    max_size=4,
)


@given(batches=BOOKINGS, prior=st.floats(0.5, 4))
def test_credit_is_a_mean_shrunk_towards_the_prediction(
    batches: list[list[tuple[int, float, float]]], prior: float
) -> None:
    policy = utility(prior=prior)
    start = utilities(policy)
    for batch in batches:
        slots, credit, weight = map(torch.tensor, zip(*batch, strict=True))
        policy.observe_credit(slots, credit, weight)
    for slot in range(N):
        own = [(credit, weight) for batch in batches for at, credit, weight in batch if at == slot]
        used = sum(weight for _, weight in own)
        mean = (prior * start[slot] + sum(credit for credit, _ in own)) / (prior + used)
        assert utilities(policy)[slot] == pytest.approx(mean, abs=1e-4)
        assert policy.uses_N[slot].item() == pytest.approx(used, abs=1e-4)


def test_learning_moves_predictions_towards_what_became_of_entries() -> None:
    policy = utility(capacity=3)
    outcome_BF = torch.tensor([[2.0, 0.0, 1.0], [0.1, 1.0, 0.0], [0.1, 1.0, 0.0]])
    policy.observe_write(torch.arange(3), outcome_BF)
    policy.observe_credit(torch.tensor([0, 1]), torch.tensor([1.0, -0.5]), torch.ones(2))
    young = copy.deepcopy(policy.network.state_dict())
    policy.learn()
    assert all(torch.equal(x, young[name]) for name, x in policy.network.state_dict().items())
    policy.settled_N.fill_(1)
    for _ in range(200):
        policy.observe_credit(torch.tensor([0, 1]), torch.tensor([1.0, -0.5]), torch.ones(2))
        policy.learn()
    assert predicted(policy, outcome_BF[0]) == pytest.approx(1.0, abs=0.1)
    assert predicted(policy, outcome_BF[1]) == pytest.approx(-0.25, abs=0.1)  # of two, one unused


@pytest.mark.parametrize(
    ("departures", "mean"), [(1024, (0.8 + 0.2 + 0.0) / 3), (1, 0.4), (0, 0.8)]
)
def test_those_that_left_count_as_well_and_the_newest_of_them_the_longest(
    departures: int, mean: float
) -> None:
    policy = utility(capacity=3, hidden=0, learning_rate=0.05, departures=departures)
    anything = torch.tensor([[2.0, 0.0, 1.0]])
    policy.observe_write(torch.arange(3), anything.expand(3, 3))
    uses = torch.tensor([1.0, 0.5, 0.0])  # of half a use, half is counted
    policy.observe_credit(torch.arange(3), uses * torch.tensor([0.8, 0.4, 0.0]), uses)
    policy.settled_N.fill_(1)
    policy.observe_write(torch.tensor([1]), anything)  # in the place of what gained 0.2
    policy.observe_write(torch.tensor([2]), anything)  # and of what was never used
    for _ in range(400):
        policy.learn()
    assert utilities(policy)[1:] == pytest.approx([mean] * 2, abs=0.02)


def live(policy: UtilityPolicy | EvictOldest, begin: int, end: int, state: list[Tensor]) -> None:
    """Live through a stream where a quarter is useful, is seen by its loss, and alone earns.

    `state` is what the store holds, whether it is useful, and when it was born; changed in place.
    """
    filled_N, useful_N, birth_N = state
    slots = len(filled_N)
    for t in range(begin, end):
        source = torch.Generator().manual_seed(t)
        useful = bool(torch.rand((), generator=source) < 0.25)
        loss = (2.0 if useful else 0.5) + 0.3 * float(torch.randn((), generator=source))
        outcome_BF = torch.tensor([[loss, 1.0 - useful, loss / 2]])
        asked = features(
            filled_N[None].clone(),
            outcome_BF=outcome_BF,
            age_BN=((t - birth_N) * filled_N)[None],
            noise_BM=uniform(torch.tensor([0]), torch.tensor([t]), slots + 1),
        )
        decision = policy.decide(asked)
        place = (decision.slot_BN + decision.victim_BN)[0].nonzero()[:, 0]
        filled_N[place], useful_N[place], birth_N[place] = True, useful, float(t)
        if isinstance(policy, UtilityPolicy):
            policy.observe_write(place, outcome_BF[: len(place)])
            read = torch.randint(0, slots, (4,), generator=source)
            read = read[filled_N[read]]
            policy.observe_credit(read, useful_N[read].float(), torch.ones(len(read)))
            policy.learn()


def empty(slots: int = 32) -> list[Tensor]:
    return [torch.zeros(slots).bool(), torch.zeros(slots).bool(), torch.zeros(slots)]


def test_utility_keeps_what_earns() -> None:
    policy, learned, fifo = utility(capacity=32, explore=0.1, grace=8), empty(), empty()
    live(policy, 0, 500, learned)
    live(EvictOldest(), 0, 500, fifo)
    assert learned[1].float().mean() > 0.85
    assert fifo[1].float().mean() < 0.45


def test_a_life_saved_and_restored_goes_on_as_one_that_never_stopped() -> None:
    straight, held = utility(capacity=32, explore=0.1, floor=0.03, grace=8), empty()
    live(straight, 0, 120, held)
    file = io.BytesIO()
    torch.save(straight.state_dict(), file)
    file.seek(0)
    torch.manual_seed(1)
    resumed = UtilityPolicy(explore=0.1, grace=8)
    resumed.begin(32)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    held_again = [part.clone() for part in held]
    live(straight, 120, 200, held)
    live(resumed, 120, 200, held_again)
    assert all(torch.equal(a, b) for a, b in zip(held, held_again, strict=True))
    ours, theirs = dict(straight.named_parameters()), dict(resumed.named_parameters())
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert utilities(straight) == utilities(resumed)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_accounts_follow_the_store_to_its_device() -> None:
    policy = utility()
    worth(policy, *(0.1 * ((3 * slot + 2) % N) - 9 for slot in range(N)))  # one is worth least
    asked = features(full(), outcome_BF=torch.zeros(1, 3), age_BN=torch.ones(1, N))
    moved = Features(*(part if part is None else part.cuda() for part in asked))
    here = policy.decide(asked)
    there = policy.decide(moved)
    assert all(torch.equal(a, b.cpu()) for a, b in zip(here, there, strict=True))
    where = torch.tensor([1, 2]).cuda()
    policy.observe_write(where, torch.ones(2, 3).cuda())
    policy.observe_credit(where, torch.ones(2).cuda(), torch.ones(2).cuda())
    policy.learn()
    assert policy.earned_N.is_cuda


@pytest.mark.parametrize("policy", [EvictOldest(), EvictUniformly(), utility()])
def test_an_add_has_one_place(policy: Policy) -> None:
    for filled in (0, 2, N):
        held = (torch.arange(N) < filled)[None]
        asked = features(held, outcome_BF=torch.zeros(1, 3), age_BN=torch.full((1, N), 9.0))
        decision = policy.decide(asked)
        action = decision.action_B4.argmax(dim=1)
        assert torch.equal(decision.action_B4, one_hot(action, 4))
        places = decision.slot_BN.sum() + decision.victim_BN.sum()
        assert places == (action != SKIP).sum()
