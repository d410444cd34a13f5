"""Experience that outlives its task: what is kept of it, rehearsed, corrected and recalled."""

import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from stillknows.agents.acting.actions import Choices, Numbers
from stillknows.agents.acting.control_examination import examine_control
from stillknows.agents.acting.experience import Experience, think_again
from stillknows.agents.acting.players import CorePlayer
from stillknows.agents.acting.recollection import (
    Recall,
    RecallingPlayer,
    Recollection,
    mixing_weight,
    windows,
)
from stillknows.agents.acting.recurrent_ppo import RecurrentPPO
from stillknows.agents.acting.rehearsal import Rehearsal, v_trace
from stillknows.agents.acting.rollout import Stage, advantages, collect, stretches_of
from stillknows.envs.control import ControlTask, spaces_of
from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import Balanced, EvictOldest, Reservoir
from stillknows.memory.slots import Slots


def task_of(kind):
    arguments = {"steps": 5} if kind == "Dial" else {}
    return ControlTask(kind, f"lanes.{kind}", arguments, arguments, 1.0, 50, True)


def store_of(capacity, policy=Reservoir):
    return lambda numbers: NEC(
        capacity, 0, numbers, policy(), answer_length=1, story_shape=(0, 0), identity="none"
    )


def living(capacity=64, keeps=Reservoir, **options):
    """Return a learner that has met both tasks, their spaces' names, and a stage of each."""
    torch.manual_seed(0)
    options = {"horizon": 16, "sequence": 8, "minibatches": 2, "rehearse": 8} | options
    learner = RecurrentPPO(width=16, store_of=store_of(capacity, keeps), **options)
    tasks = [task_of(kind) for kind in ("Lane", "Dial")]
    names = [learner.meet(*spaces_of(task)) for task in tasks]
    return learner, names, [Stage(task, 4, seed=0) for task in tasks]


choices = Choices(spaces.MultiDiscrete([2, 3]))
numbers = Numbers(spaces.Box(-1, 1, (2,)))


def distributions(actions, parameters):
    """Return the same distributions as PyTorch has them."""
    if isinstance(actions, Numbers):
        mean, deviation = parameters, actions.log_deviation_A.exp()
        return [torch.distributions.Normal(mean[:, a], deviation[a]) for a in range(2)]
    return [torch.distributions.Categorical(logits=part) for part in parameters.split([2, 3], 1)]


@pytest.mark.parametrize("actions", [choices, numbers])
def test_how_far_distributions_lie_apart_is_what_pytorch_says(actions):
    draws = torch.Generator().manual_seed(0)
    then, now = torch.randn(2, 7, actions.size, generator=draws)
    whole = actions.whole(then).detach()
    before = distributions(actions, then)
    done = actions.sample(then, draws)
    known = sum(each.log_prob(done[:, a]) for a, each in enumerate(before))
    assert torch.allclose(actions.log_prob_whole(whole, done), known, atol=1e-5)
    if isinstance(actions, Numbers):
        actions.log_deviation_A.data += torch.tensor([0.5, -0.3])
    pairs = zip(before, distributions(actions, now), strict=True)
    apart = sum(torch.distributions.kl_divergence(one, other) for one, other in pairs)
    assert torch.allclose(actions.divergence(whole, now), apart, atol=1e-5)
    assert whole.shape[1] == actions.whole_size
    if isinstance(actions, Numbers):
        actions.log_deviation_A.data -= torch.tensor([0.5, -0.3])


@pytest.mark.parametrize("core", [{"core": "lstm"}, {"core": "gru"}, {"core": "none"}])
def test_stretches_come_back_as_they_were_lived(core):
    learner, names, stages = living(capacity=100, keeps=EvictOldest, **core)
    kept = Experience(learner.agent, store_of(100, EvictOldest), steps=8)
    lived = {}
    for name, stage, unit in zip(names, stages, (2.0, 0.5), strict=True):
        collect(learner.agent, name, stage, 11, 11, learner.generator)  # into the middle of one
        rollout = collect(learner.agent, name, stage, 16, 8, learner.generator)
        places = torch.tensor([7, 0, 3])
        stretches = stretches_of(rollout, places)
        written = kept.remember(stretches, torch.zeros_like(stretches.reward_TB), unit)
        assert [each.entry for each in written] == list(range(len(kept) - 3, len(kept)))
        lived[name] = stretches, unit
    drawn = {each.signature: each for each in kept.draw(100, key=1)}
    assert list(drawn) == names
    again = think_again(learner.agent, list(drawn.values()))
    for (name, each), thoughts in zip(drawn.items(), again, strict=True):
        stretches, unit = lived[name]
        seen = each.observation_LMO.flatten(0, 1).tolist()
        assert sorted(seen) == sorted(stretches.observation_TBO.flatten(0, 1).tolist())
        values = [row.tolist() for row in (stretches.value_TB * unit).T]
        order = [values.index(row.tolist()) for row in each.value_LM.T]
        assert torch.equal(each.reward_LM, stretches.reward_TB[:, order] * unit)
        assert torch.equal(each.action_LMA, stretches.action_TBA[:, order])
        assert torch.equal(each.ended_LM, stretches.ended_TB[:, order])
        assert torch.equal(each.started_LM, stretches.started_TB[:, order])
        after = torch.where(stretches.ended_TB, stretches.next_value_TB, 0)[:, order]
        assert torch.equal(each.after_LM, after * unit)
        actions = learner.agent.body(name).actions
        now = actions.log_prob(thoughts.parameters_BS, each.action_LMA)
        assert torch.allclose(now, stretches.log_prob_TB[:, order], atol=1e-5)
        assert torch.allclose(thoughts.value_B * unit, each.value_LM, atol=1e-5)
        assert actions.divergence(each.policy_LMW, thoughts.parameters_BS).abs().max() < 1e-5


def test_a_working_memory_begins_empty_where_a_stretch_does():
    torch.manual_seed(0)
    memory = {"memory": Slots(4, 16, hops=1), "policy": EvictOldest()}
    learner, (name, _), (stage, _) = living(**memory)
    learner.update(name, stage)
    (then,) = learner.experience.draw(4, key=0)
    fresh = learner.agent.initial_state(4)
    assert torch.equal(then.state[0], fresh[0])
    learner.begin()
    assert learner.update(name, stage).numbers["rehearsed_loss"] != 0


def test_a_store_keeps_as_many_of_each_space_if_told_to_and_a_sample_if_not():
    shares = {}
    for policy in (Balanced, Reservoir):
        learner, (lane, dial), stages = living(40, policy, epochs=1, offered=8)
        for name, stage, updates in ((lane, stages[0], 24), (dial, stages[1], 8)):
            for _ in range(updates):
                learner.update(name, stage)
        shares[policy] = learner.experience.of(dial).reward_LM.shape[1]
        assert len(learner.experience) == 40 == learner.entries
        assert learner.nbytes == learner.experience.store.nbytes > 0
    assert 16 <= shares[Balanced] <= 24  # the rows of an update do not see each other
    assert 4 <= shares[Reservoir] <= 16  # ten are expected


@given(st.integers(0, 10_000), st.floats(0.5, 1.0))
def test_v_trace_is_the_sum_of_its_errors(seed, discount):
    random = np.random.default_rng(seed)
    log_ratio, reward, value, after = random.normal(size=(4, 6, 2))
    ended = random.random((6, 2)) < 0.3
    after = after * ended
    given_ = (log_ratio, reward, value, after, ended)
    found = v_trace(*(torch.from_numpy(part) for part in given_), discount)
    weight = np.minimum(1, np.exp(log_ratio))

    def error(t, row, later):
        if t == 5 and not ended[t, row]:
            return 0.0  # what follows is not known
        beyond = after[t, row] if ended[t, row] else later[t + 1, row]
        return weight[t, row] * (reward[t, row] + discount * beyond - value[t, row])

    target = np.empty((6, 2))
    for row in range(2):
        for start in range(6):
            total, share = value[start, row], 1.0
            for t in range(start, 6):
                total += share * error(t, row, value)
                share *= discount * weight[t, row]
                if ended[t, row]:
                    break
            target[start, row] = total
    advantage = [[error(t, row, target) for row in range(2)] for t in range(6)]
    assert np.allclose(found.target_LM.numpy(), target)
    assert np.allclose(found.advantage_LM.numpy(), advantage)


def test_what_is_cloned_and_learned_by_hand():
    learner, (lane, dial), stages = living(discount=0.9, rehearse=0, refresh=0)
    for name, stage in ((lane, stages[0]), (dial, stages[1])):
        learner.update(name, stage)
    drawn = learner.experience.draw(12, key=3)
    assert [each.signature for each in drawn] == [lane, dial]
    units = {lane: 2.0, dial: 4.0}
    arguments = (learner.agent, drawn, lambda name: units[name], 0.9)
    both, counts = think_again(learner.agent, drawn), [d.reward_LM.shape[1] for d in drawn]
    wanted = 0.0
    for each, now, count in zip(drawn, both, counts, strict=True):
        actions, unit = learner.agent.body(each.signature).actions, units[each.signature]
        apart = actions.divergence(each.policy_LMW, now.parameters_BS).mean().item()
        assert apart > 1e-5
        far = (now.value_B - each.value_LM / unit).square().mean().item() / 2
        wanted += count / 12 * (3 * apart + 5 * far)
    clone = Rehearsal("clone", cloning=3, value_cloning=5)
    assert clone.loss(*arguments).item() == pytest.approx(wanted, rel=1e-5)
    total = 0.0
    for each, now, unit, count in zip(drawn, both, (2.0, 4.0), counts, strict=True):
        actions = learner.agent.body(each.signature).actions
        log_now = actions.log_prob(now.parameters_BS, each.action_LMA)
        log_then = actions.log_prob_whole(each.policy_LMW, each.action_LMA)
        target, advantage = v_trace(log_now - log_then, each.reward_LM / unit, now.value_B,
                                    each.after_LM / unit, each.ended_LM, 0.9)  # fmt: skip
        value = (now.value_B - target).square().mean() / 2
        entropy = actions.entropy(now.parameters_BS).mean()
        learned = -(advantage * log_now).mean() + value / 2 - 0.2 * entropy
        cloned = actions.divergence(each.policy_LMW, now.parameters_BS).mean()
        far = (now.value_B - each.value_LM / unit).square().mean() / 2
        total += count / 12 * (2 * learned.item() + 3 * cloned.item() + 5 * far.item())
    clear = Rehearsal("clear", cloning=3, value_cloning=5, learning=2, entropy=0.2)
    assert clear.loss(*arguments).item() == pytest.approx(total, rel=1e-4)
    replay = Rehearsal("replay", cloning=3, value_cloning=5, learning=2, entropy=0.2)
    assert replay.loss(*arguments).item() != pytest.approx(total, rel=1e-4)
    with pytest.raises(ValueError, match="choose one of clone, replay, clear"):
        Rehearsal("cloned")


def test_what_is_lived_now_is_renewed_and_what_is_older_is_rehearsed():
    learner, (lane, dial), stages = living(capacity=200, refresh=200)
    learner.update(lane, stages[0])
    learner.update(lane, stages[0])
    assert not learner.experience.draw(8, key=0, old=True)
    assert learner.update(lane, stages[0]).numbers["rehearsed_loss"] == 0
    first = learner.experience.of(lane)
    (now,) = think_again(learner.agent, [first])
    actions = learner.agent.body(lane).actions
    assert torch.allclose(first.policy_LMW, actions.whole(now.parameters_BS), atol=1e-6)
    assert torch.allclose(first.value_LM, now.value_B * learner.spreads[lane].deviation, atol=1e-5)
    learner.begin()
    assert [each.signature for each in learner.experience.draw(8, key=0, old=True)] == [lane]
    lived = learner.update(dial, stages[1])
    assert lived.numbers["rehearsed_loss"] > 0
    again = learner.experience.of(lane)
    for one, other in zip(first[1:-2], again[1:-2], strict=True):
        assert torch.equal(one, other)
    assert {each.signature for each in learner.experience.draw(99, key=0, old=True)} == {lane}


def test_where_boundaries_are_not_told_other_spaces_are_something_else():
    learner, (lane, dial), stages = living(boundaries=False)
    assert not learner.told_boundaries
    assert living()[0].told_boundaries
    for name, stage, old in ((lane, 0, 0), (lane, 0, 0), (dial, 1, 16), (dial, 1, 16)):
        learner.begin()
        learner.update(name, stages[stage])
        assert int(learner.experience.born(old=True).sum()) == old
    assert int(learner.experience.born(old=False).sum()) == 16


def test_rehearsal_mends_what_the_core_has_lost():
    apart = {}
    for rehearse in (0, 8):
        learner, (lane, dial), stages = living(rehearse=rehearse, learning_rate=0.003)
        for _ in range(8):
            learner.update(lane, stages[0])
        then = learner.experience.of(lane)
        draws = torch.Generator().manual_seed(0)
        for weight in learner.agent.core.parameters():
            weight.data += 0.3 * torch.randn(weight.shape, generator=draws)
        learner.begin()
        for _ in range(12):
            learner.update(dial, stages[1])
        now = think_again(learner.agent, [then])[0].parameters_BS
        actions = learner.agent.body(lane).actions
        apart[rehearse] = actions.divergence(then.policy_LMW, now).mean().item()
    assert apart[8] < 0.2 * apart[0]


@given(st.integers(0, 10_000), st.integers(1, 5))
def test_a_window_shows_the_last_observations_of_the_episode(seed, size):
    random = np.random.default_rng(seed)
    seen, started = random.normal(size=(6, 2, 3)), random.random((6, 2)) < 0.25
    keys, whole = windows(torch.from_numpy(seen), torch.from_numpy(started), size)
    for row in range(2):
        for t in range(6):
            shown, known = [], False
            for back in range(size):
                if t - back < 0 or known:
                    break
                shown.insert(0, seen[t - back, row])
                known = bool(started[t - back, row])
            full = [np.zeros(3)] * (size - len(shown)) + shown
            assert np.array_equal(keys[t, row].numpy(), np.concatenate(full))
            assert bool(whole[t, row]) == (len(shown) == size or known)


@given(st.integers(0, 10_000), st.integers(1, 20))
def test_the_trust_makes_what_was_done_likeliest(seed, states):
    random = np.random.default_rng(seed)
    one, other, true = random.dirichlet(np.ones(3), size=(3, states))
    weight = mixing_weight(*map(torch.from_numpy, (one, other, true)))
    grid = np.linspace(0, 1, 201)[:, None, None]
    likely = (true * np.log((1 - grid) * one + grid * other)).sum(axis=(1, 2)) / states
    mine = (true * np.log((1 - weight) * one + weight * other)).sum() / states
    assert mine > likely.max() - 1e-2
    assert 0 <= weight <= 1


def remembering(updates=30):
    learner, (lane, _), (stage, _) = living(
        200, discount=0.8, learning_rate=0.01, recall=Recall(window=2, neighbours=3)
    )
    for _ in range(updates):
        learner.update(lane, stage)
    return learner, lane


def test_neighbours_say_what_was_done_and_never_of_their_own_stretch():
    learner, lane = remembering(3)
    then = learner.experience.of(lane)
    known = Recollection(Recall(window=2, neighbours=3), then)
    draws = torch.Generator().manual_seed(0)
    known.keys_ND = torch.randn(known.keys_ND.shape, generator=draws)
    known.policy_NW = torch.randn(known.policy_NW.shape, generator=draws).log_softmax(dim=1)
    query, without = known.keys_ND[:5] + 0.01, known.stretch_N[:5]
    found = known.likely(query, without)
    for row in range(5):
        far = (known.keys_ND - query[row]).square().sum(dim=1).double().numpy()
        far[known.stretch_N.numpy() == int(without[row])] = np.inf
        nearest = np.argsort(far, kind="stable")[:3]
        weights = 1 / (far[nearest] + 1e-3)
        policies = known.policy_NW.exp().double().numpy()[nearest]
        wanted = (weights[:, None] * policies).sum(axis=0) / weights.sum()
        assert np.allclose(found[row].numpy(), wanted, atol=1e-4)


def test_what_the_weights_forget_is_recalled_and_recalling_leaves_no_trace():
    learner, lane = remembering()
    for parameter in learner.agent.body(lane).actor.parameters():
        parameter.data.zero_()
    learner.agent.body(lane).actor[-1].bias.data[:] = torch.tensor([2.0, -2.0])  # always back
    before = learner.experience.store.snapshot()
    player = learner.player(lane)
    assert isinstance(player, RecallingPlayer)
    assert player.trust == player.recollection.trust > 0.9
    weights = CorePlayer(learner.agent, lane)
    settings = {"episodes": 5, "seed": 0}
    alone = examine_control(weights, task_of("Lane"), rows=5, **settings)
    found = [examine_control(player, task_of("Lane"), rows=rows, **settings) for rows in (5, 2)]
    assert alone.returns == [0.0] * 5
    assert found[0].returns == [1.0] * 5
    assert found[0] == found[1]
    after = learner.experience.store.snapshot()
    for name, column in before.pop("columns").items():
        assert torch.equal(column, after["columns"][name])
    assert before == {name: after[name] for name in before}


def test_the_store_is_trusted_less_where_the_weights_know_better():
    learner, lane = remembering()
    then = learner.experience.of(lane)
    known = Recollection(Recall(window=2, neighbours=3), then)
    known.likely = lambda key_BD, without_B: torch.full((len(key_BD), 2), 0.5)
    assert known.measure(learner.agent, then)
    assert known.trust < 0.2


def test_what_is_not_chosen_or_not_there_is_not_recalled():
    learner, (lane, dial), stages = living(recall=Recall())
    assert type(learner.player(lane)) is CorePlayer
    learner.update(dial, stages[1])
    assert type(learner.player(dial)) is CorePlayer
    with pytest.raises(ValueError, match="at least 1"):
        Recall(window=0)


def test_the_same_states_and_rewards_are_advantages_where_nothing_is_corrected():
    random = torch.Generator().manual_seed(0)
    reward, value = torch.randn(2, 6, 3, generator=random)
    ended = torch.zeros(6, 3, dtype=torch.bool)
    ended[-1] = True
    after = torch.randn(6, 3, generator=random) * ended
    found = v_trace(torch.zeros(6, 3), reward, value, after, ended, 0.9)
    following = torch.where(ended, after, value.roll(-1, 0))
    whole = advantages(reward, value, following, ended, 0.9, 1.0)
    assert torch.allclose(found.target_LM, whole + value, atol=1e-5)
