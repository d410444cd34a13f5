"""The agent that acts by its memory: what it writes, and that it learns to find its way."""

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from stillknows.agents.acting.control import EpisodicControl, live_control, name_of
from stillknows.agents.acting.control_examination import examine_control
from stillknows.agents.acting.episodic_learner import EpisodicLearner
from stillknows.agents.acting.rollout import Stage
from stillknows.envs.control import control_tasks, spaces_of
from stillknows.memory.action_values import ActionValues


class Corridor(gymnasium.Env):
    """From the left end of five places to the right one: 1 at the end, at most eight steps."""

    observation_space = spaces.Discrete(5)
    action_space = spaces.Discrete(2)

    def __init__(self, reward=1.0):
        self.reward = reward

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.place, self.clock = 0, 0
        return 0, {}

    def step(self, action):
        self.place = max(0, self.place + (1 if action else -1))
        self.clock += 1
        over = self.place == 4
        return self.place, self.reward * over, over, self.clock == 8 and not over, {}


class Loose(Corridor):
    """Breaks at the reset of every other seed."""

    def reset(self, *, seed=None, options=None):
        if seed is not None and seed % 2 == 0:
            raise RuntimeError("a loose screw")
        return super().reset(seed=seed)


def agent_for(seed=0, size=5, actions=2, **options):
    torch.manual_seed(seed)
    stores = ActionValues(actions, 500, 8, neighbours=5, learning_rate=1e-3, update_rate=0.5)
    return EpisodicControl(size, stores, 8, seed=seed, **{"explore_for": 300, **options})


def test_an_agent_learns_the_way_and_two_lives_are_equal():
    lives = [live_control(agent_for(), [Corridor() for _ in range(2)], 800) for _ in range(2)]
    assert lives[0] == lives[1]
    assert np.mean([lived.total for lived in lives[0][-20:]]) > 0.9
    assert np.mean([lived.total for lived in lives[0][:20]]) < 0.9


def test_values_become_the_discounted_distance_to_the_end():
    agent = agent_for(discount=0.8)
    live_control(agent, [Corridor()], 800)
    names = {}
    for observation, name in zip(agent.observations[: agent.kept], agent.names, strict=False):
        names[int(observation.argmax())] = int(name)
    for place in range(4):
        name = torch.tensor([names[place]])
        store = agent.memory.stores[1]
        value = store.columns["vectors_NV"][store.find(name), 0].item()
        assert value == pytest.approx(0.8 ** (3 - place), abs=0.15)


def test_the_whole_episode_without_bootstrapping_is_model_free_episodic_control():
    torch.manual_seed(0)
    stores = ActionValues(2, 500, 8, neighbours=3, kernel="mean", update="max")
    agent = EpisodicControl(5, stores, 8, width=0, steps=None, learn_every=0, explore_for=300)
    before = agent.embed.weight.clone()
    lived = live_control(agent, [Corridor()], 800)
    assert np.mean([episode.total for episode in lived[-20:]]) > 0.9
    assert torch.equal(agent.embed.weight, before)
    starts = agent.memory.stores[1].columns["vectors_NV"]
    assert starts.max().item() == pytest.approx(1.0)


def test_curiosity_tries_every_action_as_often_as_any_other_where_nothing_is_known():
    agent = agent_for(actions=3, curiosity=1.0, explore=(0.0, 0.0))
    seen_BO, name_B = np.eye(5, dtype=np.float32)[:2], np.array([7, 8])
    for _ in range(9):
        action_B, _, value_B = agent.act(seen_BO, name_B)
        agent.note(name_B, action_B)
        assert value_B.tolist() == [0.0, 0.0]  # the bonus is no value
    assert agent.taken[name_B].tolist() == [[3, 3, 3], [3, 3, 3]]
    taken = agent.taken.copy()
    agent.act(seen_BO, name_B, greedy=True)
    assert np.array_equal(agent.taken, taken)


def test_curiosity_gives_way_to_what_is_known_to_be_worth_more():
    agent = agent_for(curiosity=0.5, explore=(0.0, 0.0), learn_every=0)
    seen_BO, name_B = np.eye(5, dtype=np.float32)[:1], np.array([7])
    key_BD = agent.act(seen_BO, name_B)[1]
    agent.memory.write(torch.tensor([1]), key_BD, torch.from_numpy(name_B), torch.tensor([0.4]))
    # 0 + 0.5 / sqrt(1) against 0.4 + 0.5 / sqrt(1 + n): the other way once n > 24
    for times, chosen in ((0, 1), (23, 1), (25, 0)):
        agent.taken[7] = (0, times)
        assert agent.act(seen_BO, name_B)[0].tolist() == [chosen]
    assert agent.act(seen_BO, name_B, greedy=True)[0].tolist() == [1]


def test_curiosity_finds_a_way_over_the_ice_in_every_life():
    def late(**options):
        """Return how often the goal is reached at last, of four lives."""
        ends = [
            live_control(
                agent_for(seed, 16, 4, learn_every=0, **options),
                [gymnasium.make("FrozenLake-v1", is_slippery=False)],
                1200,
                seed,
            )
            for seed in range(4)
        ]
        return np.mean([lived.total for life in ends for lived in life[-20:]])

    assert late(curiosity=0.3, explore=(0.0, 0.0)) > 0.7  # 1.0, and by straying alone 0.3
    assert late() < 0.6


def test_an_episode_that_is_cut_bootstraps_and_one_that_is_over_does_not(monkeypatch):
    agent = agent_for(learn_every=0)
    last = []
    monkeypatch.setattr(agent, "remember", lambda episode, value: last.append(value))
    monkeypatch.setattr("stillknows.agents.acting.control.value_of", lambda *_: 7.0)
    ends = live_control(agent, [Corridor()], 400)
    assert set(last) == {0.0, 7.0}
    assert [value == 0.0 for value in last] == [lived.total == 1.0 for lived in ends]


def test_a_fixed_projection_stays_as_it_is_while_keys_and_values_learn():
    agent = agent_for(width=0)
    kept = agent.embed.weight.detach().clone()
    live_control(agent, [Corridor()], steps=100)
    assert agent.memory._squares[1].any()  # of what has moved
    assert torch.equal(agent.embed.weight, kept)


def test_exploration_has_two_shares():
    for explore in (0.1, [1.0]):
        with pytest.raises(ValueError, match="should be two shares: at first, in the end"):
            EpisodicLearner(explore=explore)
        with pytest.raises(ValueError, match="should be two shares: at first, in the end"):
            agent_for(explore=explore)


def test_among_equals_every_action_is_chosen():
    agent = agent_for()
    seen = np.tile(np.eye(5, dtype=np.float32)[:1], (400, 1))
    actions, _, values = agent.act(seen, np.arange(400), greedy=True)
    assert 140 < actions.sum() < 260
    assert values.tolist() == [0.0] * 400


def test_what_cannot_be_lived_in_is_one_sentence():
    with pytest.raises(ValueError, match="this agent chooses among"):
        live_control(agent_for(size=3), [gymnasium.make("Pendulum-v1")], 10)
    with pytest.raises(ValueError, match="only finite rewards count"):
        live_control(agent_for(), [Corridor(float("nan"))], 100)
    with pytest.raises(ValueError, match="no environment to live in"):
        live_control(agent_for(), [], 10)
    for actions in (1, 3):
        with pytest.raises(ValueError, match=f"2 actions and the memory a store for {actions}"):
            live_control(agent_for(actions=actions), [Corridor()], 10)
    with pytest.raises(ValueError, match="has other spaces than"):
        live_control(agent_for(), [Corridor(), gymnasium.make("FrozenLake-v1")], 10)


def test_an_embedding_may_have_nothing_to_learn():
    agent = agent_for(embed=torch.nn.Linear(5, 8, bias=False).requires_grad_(False))
    assert live_control(agent, [Corridor()], 100)
    agent = agent_for(size=8, embed=torch.nn.Identity())
    assert not list(agent.parameters())


def test_without_a_time_to_explore_it_strays_as_it_does_in_the_end():
    agent = agent_for(explore_for=0, explore=(1.0, 0.0))
    _, key, _ = agent.act(np.eye(5, dtype=np.float32)[:1], np.zeros(1, dtype=np.int64))
    agent.memory.write(torch.tensor([1]), key.detach(), torch.tensor([0]), torch.tensor([1.0]))
    seen = np.tile(np.eye(5, dtype=np.float32)[:1], (100, 1))
    assert agent.act(seen, np.zeros(100, dtype=np.int64))[0].tolist() == [1] * 100


def test_a_name_is_of_numbers():
    zeros = np.zeros(3, dtype=np.float32)
    assert name_of(zeros) == name_of(-zeros) != name_of(zeros + 1)
    assert 0 <= name_of(zeros) < 1 << 63


@pytest.mark.parametrize("sampled", [False, True])
def test_an_examination_says_the_same_however_many_episodes_stand_side_by_side(sampled):
    (task,) = control_tasks(["CartPole-v1"])
    learner = EpisodicLearner(explore=(0.3, 0.3))
    player = learner.player(learner.meet(*spaces_of(task)), sampled, 3)
    lived = [examine_control(player, task, episodes=4, rows=rows, seed=3) for rows in (1, 2, 4, 1)]
    assert all(each.returns == lived[0].returns for each in lived)
    assert len(set(lived[0].returns)) > 1


def test_what_went_wrong_is_told_once_though_a_life_goes_on():
    (task,) = control_tasks([{"_target_": f"{__name__}.Loose", "reference": 1.0}])
    told, again = [], []
    for seed in range(4):
        stage = Stage(task, 2, seed, 10)
        for _ in range(20):
            stage.step(np.zeros(2, dtype=np.int64))
            told += stage.take_faults()
        other = Stage(task, 2, seed, 10)
        other.restore(stage.state(lambda part: part), lambda part: part)
        again += other.take_faults()
    assert told
    assert not again
