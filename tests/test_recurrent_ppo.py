"""Recurrent PPO against independent arithmetic, what it remembers, and that it learns."""

import math

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given
from hypothesis import strategies as st

from stillknows.agents.acting.actions import Choices, Numbers
from stillknows.agents.acting.recurrent_ppo import RecurrentPPO, policy_loss, value_loss
from stillknows.agents.acting.rollout import Stage, advantages, collect, stretches_of
from stillknows.agents.acting.spread import Spread
from stillknows.agents.persistence.container import read_tree, write_tree
from stillknows.envs.control import ControlTask, spaces_of
from stillknows.memory.dnc import DNC
from stillknows.memory.memory_network import MemoryNetwork
from stillknows.memory.ntm import NTM
from stillknows.memory.policies.rules import EvictOldest, EvictUniformly
from stillknows.memory.recurrent import NoState
from stillknows.memory.slots import Slots
from stillknows.memory.sparse_slots import SparseSlots


class Counter(gymnasium.Env):
    """Shows 10 x episode + step and pays 1; three steps, then over (even) or cut (odd episodes)."""

    observation_space = spaces.Box(-np.inf, np.inf, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def __init__(self):
        self.episode = -1

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.episode, self.clock = self.episode + 1, 0
        return self._see(), {}

    def step(self, action):
        self.clock += 1
        end = self.clock == 3
        return self._see(), 1.0, end and self.episode % 2 == 0, end and self.episode % 2 == 1, {}

    def _see(self):
        return np.array([10 * self.episode + self.clock], dtype=np.float32)


class Cue(gymnasium.Env):
    """Shows one of two cues, then nothing for some steps; the last action should be the cue."""

    observation_space = spaces.MultiBinary(3)
    action_space = spaces.Discrete(2)

    def __init__(self, length=3):
        self.length = length

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.cue, self.clock = int(self.np_random.integers(2)), 0
        return np.array([self.cue == 0, self.cue == 1, 0], dtype=np.int8), {}

    def step(self, action):
        self.clock += 1
        asked, over = self.clock == self.length - 1, self.clock == self.length
        seen = np.array([0, 0, asked], dtype=np.int8)
        right = over and action == self.cue
        return seen, float(right), over, False, {"success": right} if over else {}


def task_of(kind, **arguments):
    return ControlTask(kind, f"{__name__}.{kind}", arguments, arguments, 1.0, 50, True)


def cores():
    torch.manual_seed(0)
    return {
        "lstm": {"core": "lstm"},
        "gru": {"core": "gru"},
        "none": {"core": "none"},
        "slots": {"memory": Slots(3, 16, hops=2), "policy": EvictOldest()},
        "slots drawing": {"memory": Slots(2, 16, hops=1), "policy": EvictUniformly()},
        "sparse": {"memory": SparseSlots(8, 16, nearest=3, hops=1), "policy": EvictOldest()},
        "dnc": {"memory": DNC(16, 4, 16, 2, 16), "policy": EvictOldest()},
        "ntm": {"memory": NTM(16, 4, 16, 1, hidden_size=16), "policy": EvictOldest()},
        "memory network": {"memory": MemoryNetwork(4, 16, hops=2), "policy": EvictOldest()},
    }


def learner_for(task, width=16, **options):
    learner = RecurrentPPO(width=width, **options)
    return learner, learner.meet(*spaces_of(task))


@given(st.integers(0, 10_000), st.floats(0.5, 1.0), st.floats(0.0, 1.0))
def test_advantages_are_the_discounted_sums_of_their_errors(seed, discount, trace):
    random = np.random.default_rng(seed)
    reward, value, after = random.normal(size=(3, 7, 2))
    ended = random.random((7, 2)) < 0.3
    known = advantages(*map(torch.from_numpy, (reward, value, after, ended)), discount, trace)
    for row in range(2):
        for t in range(7):
            total, weight = 0.0, 1.0
            for later in range(t, 7):
                error = reward[later, row] + discount * after[later, row] - value[later, row]
                total += weight * error
                weight *= discount * trace
                if ended[later, row]:
                    break
            assert known[t, row].item() == pytest.approx(total, abs=1e-9)


def test_the_losses_are_those_of_the_paper():
    random = np.random.default_rng(0)
    ratio, advantage, value, old, target = (random.normal(1, 0.4, (6, 3)) for _ in range(5))
    advantage -= 1
    policy = np.mean(
        [
            min(r * a, min(max(r, 0.8), 1.2) * a)
            for r, a in zip(ratio.flat, advantage.flat, strict=True)
        ]
    )
    given_ = policy_loss(torch.from_numpy(ratio), torch.from_numpy(advantage), 0.2)
    assert given_.item() == pytest.approx(-policy)
    plain, clipped = [], []
    for v, o, g in zip(value.flat, old.flat, target.flat, strict=True):
        plain.append((v - g) ** 2)
        clipped.append(max(plain[-1], (o + min(max(v - o, -0.1), 0.1) - g) ** 2))
    parts = [torch.from_numpy(part) for part in (value, old, target)]
    assert value_loss(*parts).item() == pytest.approx(0.5 * np.mean(plain))
    assert value_loss(*parts, 0.1).item() == pytest.approx(0.5 * np.mean(clipped))


class Known:
    """An agent that expects what it sees: the value of an observation is its first number."""

    device = torch.device("cpu")

    def initial_state(self, rows, key_B=None):
        return NoState()

    def begin_rows(self, state, started_B, key_B):
        return state

    def body(self, signature):
        return self

    actions = Choices(spaces.Discrete(2))

    def step(self, signature, observation_BO, state):
        from stillknows.agents.acting.control_agent import Thoughts

        return state, Thoughts(torch.zeros(len(observation_BO), 2), observation_BO[:, 0])


def test_what_is_over_is_worth_nothing_and_what_is_cut_the_value_where_it_was_cut():
    stage = Stage(task_of("Counter"), 2, seed=0)
    rollout = collect(Known(), "", stage, 8, 8, torch.Generator().manual_seed(0))
    seen = [0, 1, 2, 10, 11, 12, 20, 21]
    after = [1, 2, 0, 11, 12, 13, 21, 22]  # 0: over; 13: cut there, and not 20, the next episode
    for row in range(2):
        assert rollout.observation_TBO[:, row, 0].tolist() == seen
        assert rollout.value_TB[:, row].tolist() == seen
        assert rollout.next_value_TB[:, row].tolist() == after
    assert rollout.started_TB[:, 0].tolist() == [t in (0, 3, 6) for t in range(8)]
    assert rollout.ended_TB[:, 0].tolist() == [t in (2, 5) for t in range(8)]
    assert rollout.key_TB[:, 1].tolist() == [1, 1, 1, 3, 3, 3, 5, 5]
    assert [(each.total, each.length) for each in stage.take_ended()] == [(3.0, 3)] * 4
    assert stage.take_ended() == []


@pytest.mark.parametrize("core", list(cores()))
def test_actions_are_as_likely_as_when_they_were_taken(core):
    task = task_of("Cue", length=5)
    learner, signature = learner_for(task, horizon=16, sequence=8, epochs=1, **cores()[core])
    stage = Stage(task, 3, seed=1)
    for _ in range(2):  # not only at first weights, and from the middle of an episode
        learner.update(signature, stage)
    rollout = collect(learner.agent, signature, stage, 16, 8, learner.generator)
    assert 0 < rollout.started_TB.sum() < rollout.started_TB.numel() / 2
    stretches = stretches_of(rollout, torch.arange(6))
    assert stretches.reward_TB.shape == (8, 6)
    thoughts = learner.agent.sequence(
        signature,
        stretches.observation_TBO,
        stretches.states[0],
        stretches.started_TB,
        stretches.key_TB,
    )
    choices = learner.agent.body(signature).actions
    log_prob = choices.log_prob(thoughts.parameters_BS, stretches.action_TBA)
    assert (log_prob - stretches.log_prob_TB).exp().sub(1).abs().max() < 1e-5
    assert (thoughts.value_B - stretches.value_TB).abs().max() < 1e-5


def test_stretches_are_those_of_the_rollout():
    task = task_of("Counter")
    learner, signature = learner_for(task, horizon=6, sequence=3)
    stage = Stage(task, 2, seed=0)
    rollout = collect(learner.agent, signature, stage, 6, 3, learner.generator)
    second = stretches_of(rollout, torch.tensor([3]))  # row 1, steps 3 to 5
    assert second.observation_TBO[:, 0, 0].tolist() == [10, 11, 12]
    assert torch.equal(second.states[0].hidden_BH[0], rollout.states[1].hidden_BH[1])
    assert not torch.equal(rollout.states[0].hidden_BH, rollout.states[1].hidden_BH)


def test_a_state_of_the_core_does_not_outlive_its_episode():
    task = task_of("Cue")
    learner, signature = learner_for(task)
    seen = torch.randn(4, 1, 3)
    started = torch.tensor([[True], [False], [True], [False]])
    keys = torch.zeros(4, 1, dtype=torch.int64)
    agent = learner.agent
    whole = agent.sequence(signature, seen, agent.initial_state(1), started, keys)
    late = agent.sequence(signature, seen[2:], agent.initial_state(1), started[2:], keys[2:])
    assert torch.allclose(whole.value_B[2:], late.value_B)
    joined = agent.sequence(signature, seen, agent.initial_state(1), started & False, keys)
    assert not torch.allclose(whole.value_B[2:], joined.value_B[2:])


def remembers(learner, signature, task, updates):
    stage = Stage(task, 16, seed=3)
    ended = [e.total for _ in range(updates) for e in learner.update(signature, stage).ended]
    return np.mean(ended[-200:])


def test_what_was_shown_once_is_remembered_by_a_core_and_by_none_without():
    task = task_of("Cue", length=4)
    options = {"horizon": 32, "sequence": 8, "learning_rate": 5e-3, "minibatches": 2, "seed": 1}
    torch.manual_seed(0)
    assert remembers(*learner_for(task, **options), task, 14) > 0.85
    torch.manual_seed(0)
    memory = {"memory": Slots(4, 16, hops=1), "policy": EvictOldest()}
    assert remembers(*learner_for(task, **options, **memory), task, 14) > 0.85
    torch.manual_seed(0)
    blind = remembers(*learner_for(task, core="none", **options), task, 14)
    assert 0.35 < blind < 0.65


def test_a_pole_is_balanced_longer():
    torch.manual_seed(0)
    task = ControlTask("CartPole", "CartPole-v1", {}, {}, 475.0, 500)
    learner, signature = learner_for(task, width=64, sequence=16)
    stage = Stage(task, 8, seed=0)
    lengths = [e.length for _ in range(11) for e in learner.update(signature, stage).ended]
    assert np.mean(lengths[:20]) < 40
    assert np.mean(lengths[-10:]) > 100


@pytest.mark.parametrize("core", ["lstm", "slots", "dnc"])
def test_a_learner_goes_on_from_a_file_as_if_it_had_not_stopped(core, tmp_path):
    task = task_of("Cue", length=5)
    lives = []
    for _ in range(2):
        learner, signature = learner_for(task, horizon=8, **cores()[core])
        lives.append((learner, Stage(task, 3, seed=1)))
    (one, here), (other, there) = lives
    one.update(signature, here)
    kept = {"learner": one.state(), "stage": here.state(one.pack)}
    write_tree(tmp_path / "kept.safetensors", kept, "test")
    kept = read_tree(tmp_path / "kept.safetensors", "test")
    other.restore(kept["learner"])
    there.restore(kept["stage"], lambda tree: other.unpack(tree, 3))
    for _ in range(2):
        assert one.update(signature, here) == other.update(signature, there)
    for a, b in zip(one.agent.parameters(), other.agent.parameters(), strict=True):
        assert torch.equal(a, b)


def test_rewards_are_divided_by_the_deviation_of_returns_so_far():
    spread = Spread()
    random = np.random.default_rng(0)
    seen, returns = [], [torch.zeros(2, dtype=torch.float64)] * 2
    sums = np.zeros((2, 2))
    for stage in (0, 1, 1, 0, 1, 0):  # two tasks take turns in the middle of their episodes
        reward, ended = random.normal(3 - 9 * stage, 5, (6, 2)), random.random((6, 2)) < 0.2
        for t in range(6):
            sums[stage] = sums[stage] * 0.9 + reward[t]
            seen.append(sums[stage].copy())
            sums[stage] = np.where(ended[t], 0.0, sums[stage])
        told = torch.from_numpy(reward), torch.from_numpy(ended)
        scaled, returns[stage] = spread.scale(*told, returns[stage], 0.9)
        assert np.allclose(scaled.numpy(), reward / np.std(np.array(seen)))
        assert np.allclose(returns[stage].numpy(), sums[stage])
    assert Spread().deviation == 1.0


class Paid(Stage):
    """A stage of which every step gives its rows the same."""

    def __init__(self, task: ControlTask, gives: np.ndarray) -> None:
        super().__init__(task, len(gives), seed=0)
        self.gives = gives

    def step(self, actions):
        return super().step(actions)._replace(reward_B=self.gives)


@pytest.mark.parametrize("turns", [1, 2])
def test_tasks_that_take_turns_do_not_add_to_each_others_returns(turns):
    task = task_of("Cue", length=40)
    learner, signature = learner_for(task, horizon=8)
    stages = [Paid(task, gives) for gives in np.random.default_rng(0).normal(size=(turns, 2)) * 5]
    for _ in range(3):
        for stage in stages:
            learner.update(signature, stage)
    seen = []
    for stage in stages:
        sums = [0 * stage.gives]
        for _ in range(24):
            sums.append(sums[-1] * learner.discount + stage.gives)
        seen += sums[1:]
        assert np.allclose(stage.return_B.numpy(), sums[-1], rtol=1e-5)
    assert learner.spreads[signature].deviation == pytest.approx(np.std(seen), rel=1e-5)


def test_returns_go_on_with_the_stage_that_is_set_up_again():
    task, gives = task_of("Cue", length=40), np.array([1.0, -2.0])
    learner, signature = learner_for(task, horizon=8)
    stage, again = Paid(task, gives), Paid(task, gives)
    learner.update(signature, stage)
    again.restore(stage.state(learner.pack), lambda tree: learner.unpack(tree, 2))
    added = sum(learner.discount**step for step in range(8))
    assert np.allclose(again.return_B.numpy(), gives * added, rtol=1e-5)


def test_of_one_step_alone_only_the_value_is_learned():
    task = task_of("Cue", length=4)
    learner, signature = learner_for(task, horizon=4, sequence=1, minibatches=4, epochs=1)
    learner.update(signature, Stage(task, 1, seed=0))
    assert all(weight.isfinite().all() for weight in learner.agent.parameters())


def test_choices_are_independent_and_numbers_normal():
    choices = Choices(spaces.MultiDiscrete([2, 3], start=[5, 1]))
    logits = torch.randn(1, 5, dtype=torch.float64)
    p, q = (np.exp(part) / np.exp(part).sum() for part in np.split(logits.numpy()[0], [2]))
    total = 0.0
    for a in range(2):
        for b in range(3):
            known = choices.log_prob(logits, torch.tensor([[a, b]])).item()
            assert known == pytest.approx(math.log(p[a] * q[b]))
            total -= p[a] * q[b] * known
    assert choices.entropy(logits).item() == pytest.approx(total)
    assert choices.native(torch.tensor([[1, 2]])).tolist() == [[6, 3]]
    numbers = Numbers(spaces.Box(np.array([-2, 0]), np.array([2, 1]), dtype=np.float64))
    with torch.no_grad():
        numbers.log_deviation_A.fill_(math.log(0.5))
    mean, action = torch.zeros(1, 2), torch.tensor([[0.3, -0.2]])
    density = [math.exp(-2 * x * x) / (0.5 * math.sqrt(2 * math.pi)) for x in (0.3, -0.2)]
    assert numbers.log_prob(mean, action).item() == pytest.approx(math.log(math.prod(density)))
    each = 0.5 * math.log(2 * math.pi * math.e * 0.25)
    assert numbers.entropy(mean).tolist() == pytest.approx([2 * each])
    assert numbers.native(torch.tensor([[0.5, -7.0]])).tolist() == [[1.0, 0.0]]
    drawn = numbers.sample(torch.ones(4000, 2), torch.Generator().manual_seed(0))
    assert drawn.mean().item() == pytest.approx(1, abs=0.03)
    assert drawn.std().item() == pytest.approx(0.5, abs=0.03)


def test_first_weights_do_not_depend_on_when_a_space_is_met():
    pairs = [spaces_of(task_of(kind)) for kind in ("Cue", "Counter")]
    found = []
    for order in (pairs, pairs[::-1]):
        learner = RecurrentPPO(width=8, seed=4)
        for pair in order:
            learner.meet(*pair)
        found.append({name: body.state_dict() for name, body in learner.agent.bodies.items()})
    assert found[0].keys() == found[1].keys()
    for name, weights in found[0].items():
        for key, weight in weights.items():
            assert torch.equal(weight, found[1][name][key])
    assert len(learner.optimizer.param_groups) == 3


def test_a_policy_that_moved_very_far_has_a_distance_that_is_a_number():
    learner, signature = learner_for(task_of("Counter"), horizon=6, sequence=3)
    rollout = collect(
        learner.agent, signature, Stage(task_of("Counter"), 1, 0), 6, 6, torch.Generator()
    )
    far = rollout._replace(log_prob_TB=rollout.log_prob_TB + 200)  # a ratio of 0 in float32
    losses = learner.losses(far, torch.zeros(6, 1))
    assert losses.divergence.item() == pytest.approx(199, abs=0.01)


def test_options_that_cannot_be_are_one_sentence():
    with pytest.raises(ValueError, match="does not divide"):
        RecurrentPPO(horizon=10, sequence=4)
    with pytest.raises(ValueError, match="at least 1"):
        RecurrentPPO(epochs=0)
    with pytest.raises(ValueError, match="choose lstm, gru, none"):
        RecurrentPPO(core="cnn")
