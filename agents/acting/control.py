"""Control by episodic memory: an agent that acts by the values of what it remembers.

The agent of Neural Episodic Control (Pritzel et al. 2017, arXiv:1703.01988, algorithm 1): it
embeds what it sees, acts greedily by `ActionValues`, writes N-step returns when an episode ends,
and replays them to train the embedding. With a fixed random embedding and `kernel="mean"`,
`update="max"` it is model-free episodic control (Blundell et al. 2016, arXiv:1606.04460).

It lives in any Gymnasium environments with a discrete action space and observations that
`gymnasium.spaces.flatten` turns into numbers. Letters: B environments side by side, A actions,
D key size, O numbers of an observation.
"""

import hashlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium import spaces
from torch import Tensor, nn

from stillknows.memory import expect
from stillknows.memory.action_values import ActionValues, n_step_returns

Env = gymnasium.Env[Any, Any]
PLACES = 2**16  # of the table that counts what was done


class Lived(NamedTuple):
    """An episode that ended: after how many steps of the life, and its undiscounted return."""

    step: int
    total: float


class Step(NamedTuple):
    """One step of an episode: what was seen, its name and key, what was done, and its worth."""

    observation: np.ndarray
    name: int
    key: Tensor
    action: int
    reward: float
    value: float


class EpisodicControl(nn.Module):
    """An agent of A actions with an embedding and a store of values for each action.

    Args:
        observation_size: O.
        memory: values of its actions; its key size is D.
        key_size: D.
        width: of the embedding's hidden layer; 0 for a fixed random projection to D numbers.
        embed: an embedding of your own, `[B, O]` to `[B, D]`, such as a `SpaceEncoder`.
        discount: gamma.
        steps: N of the N-step return; None for the whole episode (Monte Carlo).
        explore: share of random actions at first and at last.
        explore_for: steps over which it falls, along a line.
        curiosity: what an action is worth besides Q that was never taken in a state; after n times
            it is worth `curiosity / sqrt(1 + n)`. States are counted by their hash in a table that
            does not grow (Tang et al. 2017, arXiv:1611.04717, who add the bonus to the reward; here
            it moves the choice alone, so that returns stay those of the task).
        replay: how many states are kept for replay.
        batch: how many are replayed at a time.
        learn_every: steps between two replays; 0 never learns the embedding.
        learning_rate: of RMSProp, for the embedding.
        seed: of exploration and replay.
    """

    def __init__(
        self,
        observation_size: int,
        memory: ActionValues,
        key_size: int,
        *,
        width: int = 64,
        embed: nn.Module | None = None,
        discount: float = 0.99,
        steps: int | None = 100,
        explore: tuple[float, float] = (1.0, 0.01),
        explore_for: int = 2000,
        curiosity: float = 0.0,
        replay: int = 50_000,
        batch: int = 32,
        learn_every: int = 4,
        learning_rate: float = 1e-3,
        seed: int = 0,
    ) -> None:
        super().__init__()
        expect.whole(0, width=width, explore_for=explore_for, learn_every=learn_every)
        expect.whole(1, key_size=key_size, replay=replay, batch=batch)
        if steps is not None:
            expect.whole(1, steps=steps)
        expect.number(0, 1, discount=discount)
        expect_two_shares(explore)
        expect.number(0, curiosity=curiosity, learning_rate=learning_rate)
        projection = nn.Linear(observation_size, key_size, bias=False)
        self.embed: nn.Module = projection.requires_grad_(False)
        if width:
            first = nn.Linear(observation_size, width)
            self.embed = nn.Sequential(first, nn.ReLU(), nn.Linear(width, key_size))
        if embed is not None:
            self.embed = embed
        self.memory, self.discount, self.steps = memory, discount, steps
        self.explore, self.explore_for, self.curiosity = explore, explore_for, curiosity
        self.taken = np.zeros((PLACES, len(memory.stores)), dtype=np.int32)
        self.batch, self.learn_every = batch, learn_every
        self.random = np.random.default_rng(seed)
        learned = list(self.parameters()) or [nn.Parameter(torch.zeros(0))]  # an optimiser has some
        self.optimizer = torch.optim.RMSprop(learned, learning_rate, 0.95, 0.01)
        self.observations = np.zeros((replay, observation_size), dtype=np.float32)
        self.names = np.zeros(replay, dtype=np.int64)
        self.actions = np.zeros(replay, dtype=np.int64)
        self.returns = np.zeros(replay, dtype=np.float32)
        self.kept = 0  # states ever put there
        self.lived = 0  # steps of the whole life

    @torch.no_grad()
    def act(
        self, observation_BO: np.ndarray, name_B: np.ndarray, greedy: bool = False
    ) -> tuple[np.ndarray, Tensor, Tensor]:
        """Choose actions, among equals any.

        Args:
            observation_BO: flat observations.
            name_B: hashes of the states, int64.
            greedy: never explore.

        Returns:
            Actions `[B]`, keys `[B, D]`, and the values of the states, `max_a Q`, `[B]`.
        """
        key_BD = self.embed(torch.tensor(observation_BO))
        value_BA = self.memory.values(key_BD, torch.from_numpy(name_B))
        worth_BA = value_BA.numpy()
        if self.curiosity and not greedy:
            worth_BA = worth_BA + self.curiosity / np.sqrt(1 + self.taken[name_B % PLACES])
        best_BA = worth_BA == worth_BA.max(axis=1, keepdims=True)
        action_B = (best_BA * (1 + self.random.random(best_BA.shape))).argmax(axis=1)
        first, last = self.explore
        early = self.lived < self.explore_for
        share = last + (first - last) * (1 - self.lived / self.explore_for if early else 0.0)
        stray_B = self.random.random(len(action_B)) < (0.0 if greedy else share)
        any_B = self.random.integers(value_BA.shape[1], size=len(action_B))
        return np.where(stray_B, any_B, action_B), key_BD, value_BA.amax(dim=1)

    def note(self, name_B: np.ndarray, action_B: np.ndarray) -> None:
        """Count what was done in which state, by their hashes."""
        np.add.at(self.taken, (name_B % PLACES, action_B), 1)

    def remember(self, episode: Sequence[Step], last: float) -> None:
        """Write the returns of an episode into the memory and keep it for replay.

        Args:
            episode: its steps.
            last: the value of the state after the last step, 0 if the episode was over.
        """
        rewards_T = torch.tensor([step.reward for step in episode])
        values_T = torch.tensor([step.value for step in episode])
        span = len(episode) if self.steps is None else self.steps
        return_T = n_step_returns(rewards_T, values_T, span, self.discount, last)
        names = torch.tensor([step.name for step in episode])
        actions = torch.tensor([step.action for step in episode])
        keys_TD = torch.stack([step.key for step in episode])
        self.memory.write(actions, keys_TD, names, return_T)
        for step, value in zip(episode, return_T.tolist(), strict=True):
            place = self.kept % len(self.names)
            self.observations[place], self.names[place] = step.observation, step.name
            self.actions[place], self.returns[place] = step.action, value
            self.kept += 1

    def learn(self) -> float:
        """Replay one batch: move the embedding, and the keys and values that it met.

        Returns:
            The mean squared error before.
        """
        rows = self.random.integers(min(self.kept, len(self.names)), size=self.batch)
        key_BD = self.embed(torch.tensor(self.observations[rows]))
        value_B = self.memory.replay(
            torch.from_numpy(self.actions[rows]), key_BD, torch.from_numpy(self.names[rows])
        )
        loss = (value_B - torch.from_numpy(self.returns[rows])).square().mean()
        if loss.requires_grad:
            self.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            self.optimizer.step()
            self.memory.descend()
        return float(loss.detach())


def live_control(
    agent: EpisodicControl,
    envs: Sequence[Env],
    steps: int,
    seed: int = 0,
    progress: Callable[[Lived], None] = lambda lived: None,
) -> list[Lived]:
    """Let an agent live in environments side by side, each begun anew when its episode ends.

    Args:
        agent: who acts and learns.
        envs: B environments with the same spaces.
        steps: of all environments together.
        seed: of the environments' first resets.
        progress: hears of every episode that ended.

    Returns:
        The episodes that ended, in order.

    Raises:
        ValueError: if the actions are not discrete, observations have no fixed size, or a reward
            is not a finite number.
    """
    space, actions = _expect_livable(agent, envs)
    seen = [_flat(space, env.reset(seed=seed + row)[0]) for row, env in enumerate(envs)]
    episodes: list[list[Step]] = [[] for _ in envs]
    ended: list[Lived] = []
    while agent.lived < steps:
        name_B = np.array([name_of(observation) for observation in seen])
        action_B, key_BD, value_B = agent.act(np.stack(seen), name_B)
        agent.note(name_B, action_B)
        for row, env in enumerate(envs):
            action = int(action_B[row]) + int(actions.start)
            after, reward, terminated, truncated, _ = env.step(action)
            if not np.isfinite(float(reward)):
                raise ValueError(f"{env} gave the reward {reward}: only finite rewards count.")
            step = Step(seen[row], int(name_B[row]), key_BD[row], int(action_B[row]),
                         float(reward), float(value_B[row]))  # fmt: skip
            episodes[row].append(step)
            seen[row] = _flat(space, after)
            agent.lived += 1
            if terminated or truncated:
                agent.remember(episodes[row], 0.0 if terminated else value_of(agent, seen[row]))
                ended.append(Lived(agent.lived, sum(step.reward for step in episodes[row])))
                progress(ended[-1])
                episodes[row], seen[row] = [], _flat(space, env.reset()[0])
            if agent.learn_every and agent.kept and agent.lived % agent.learn_every == 0:
                agent.learn()
    return ended


def _expect_livable(
    agent: EpisodicControl, envs: Sequence[Env]
) -> tuple[spaces.Space[Any], spaces.Discrete]:
    """Return the spaces of these environments.

    Raises:
        ValueError: if the agent cannot live in them.
    """
    if not envs:
        raise ValueError("There is no environment to live in: give one or more.")
    space, actions = envs[0].observation_space, envs[0].action_space
    if not isinstance(actions, spaces.Discrete):
        raise ValueError(
            f"{envs[0]} has the action space {actions}; this agent chooses among "
            "gymnasium.spaces.Discrete."
        )
    if not space.is_np_flattenable:
        raise ValueError(
            f"{envs[0]} has the observation space {space}, which has no fixed size: wrap the "
            "environment so that it has."
        )
    for env in envs:
        if (env.observation_space, env.action_space) != (space, actions):
            raise ValueError(f"{env} has other spaces than {envs[0]}: they live in one embedding.")
    if actions.n != len(agent.memory.stores):
        raise ValueError(
            f"{envs[0]} has {actions.n} actions and the memory a store for "
            f"{len(agent.memory.stores)}: give it ActionValues({actions.n}, ...)."
        )
    return space, actions


def expect_two_shares(explore: Any) -> None:
    """Raise a ValueError if exploration is not two shares."""
    if not hasattr(explore, "__len__") or len(explore) != 2:
        raise ValueError(f"explore={explore} should be two shares: at first, in the end.")
    for share in explore:
        expect.number(0, 1, explore=share)


def name_of(observation_O: np.ndarray) -> int:
    """Return a 63-bit number that names a state, by its numbers."""
    whole = observation_O + observation_O.dtype.type(0)  # -0 is 0
    digest = hashlib.blake2b(whole.tobytes(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1


def _flat(space: spaces.Space[Any], observation: Any) -> np.ndarray:
    return np.asarray(spaces.flatten(space, observation), dtype=np.float32)


def value_of(agent: EpisodicControl, observation: np.ndarray) -> float:
    """Return `max_a Q` of one state, by its flat observation."""
    name_B = np.array([name_of(observation)])
    return float(agent.act(observation[None], name_B, greedy=True)[2][0])
