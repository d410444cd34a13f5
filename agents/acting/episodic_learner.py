"""Neural Episodic Control in a stream: an agent for each pair of spaces, acting by what it stores.

The agent is that of `control.py`; its embedding and its stores are shared by all tasks with the
same observations and actions, which it does not tell apart. It explores as it gets used to a pair
of spaces, and no more when a task changes, since it is not told.

Letters: B rows, O numbers of an observation, D key size, A actions.
"""

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from torch import nn

from stillknows.agents.acting import control
from stillknows.agents.acting.control import EpisodicControl, Step
from stillknows.agents.acting.control_learner import NO_HOOKS, Hooks, Lived
from stillknows.agents.acting.rollout import Moved, Stage
from stillknows.agents.controllers.encoder import SpaceEncoder
from stillknows.envs.observed import signature_of
from stillknows.memory import expect
from stillknows.memory.action_values import ActionValues
from stillknows.memory.interface import Policy, WorkingMemory

_MOVING = ("lived", "kept")
_KEPT = ("observations", "names", "actions", "returns", "taken")


class EpisodicLearner:
    """Learns control by remembering what every action was worth.

    Args:
        key_size: D.
        capacity: entries of each action's store.
        neighbours: K.
        update_rate: how far the value of a known state moves to its new return.
        store_rate: learning rate of the keys and values that are replayed.
        horizon: steps of a row in one update.
        steps: N of the N-step return; None for the whole episode.
        discount: gamma.
        explore: share of random actions at first and at last.
        explore_for: steps in a pair of spaces over which it falls.
        curiosity: what an action is worth besides Q that was never taken in a state.
        replay: how many states are kept for replay, for each pair of spaces.
        batch: how many are replayed at a time.
        learn_every: steps between two replays; 0 never learns the embedding.
        learning_rate: of RMSProp, for the embedding.
        seed: of embeddings, exploration and replay.
        device: the CPU: nothing here is worth another.
        memory: None: what it remembers is in its stores.
        policy: of a working memory: not used.
        width: of other agents: not used.

    Raises:
        ValueError: if it shall live elsewhere than on the CPU.
    """

    told_boundaries = False
    optimizer = None

    def __init__(
        self,
        *,
        key_size: int = 32,
        capacity: int = 20_000,
        neighbours: int = 11,
        update_rate: float = 0.1,
        store_rate: float = 1e-3,
        horizon: int = 128,
        steps: int | None = 100,
        discount: float = 0.99,
        explore: tuple[float, float] = (1.0, 0.01),
        explore_for: int = 3000,
        curiosity: float = 0.0,
        replay: int = 50_000,
        batch: int = 32,
        learn_every: int = 4,
        learning_rate: float = 1e-3,
        seed: int = 0,
        device: torch.device | str = "cpu",
        memory: WorkingMemory | None = None,
        policy: Policy | None = None,
        width: int = 0,
    ) -> None:
        if torch.device(device).type != "cpu":
            raise ValueError(f"learner=nec lives on the CPU, not on device={device}.")
        if memory is not None:
            raise ValueError(
                "learner=nec remembers in stores of its own and has no working memory: leave "
                "working_memory=none."
            )
        expect.whole(1, key_size=key_size, capacity=capacity)
        expect.whole(1, neighbours=neighbours, horizon=horizon)
        expect.number(0, store_rate=store_rate)
        control.expect_two_shares(explore)
        self.key_size, self.horizon, self.seed = key_size, horizon, seed
        self.stores: dict[str, Any] = {
            "capacity": capacity,
            "neighbours": neighbours,
            "update_rate": update_rate,
            "learning_rate": store_rate,
        }
        self.options: dict[str, Any] = {
            "discount": discount,
            "steps": steps,
            "explore": (explore[0], explore[1]),
            "explore_for": explore_for,
            "curiosity": curiosity,
            "replay": replay,
            "batch": batch,
            "learn_every": learn_every,
            "learning_rate": learning_rate,
        }
        self.agent: nn.ModuleDict = nn.ModuleDict()

    def meet(self, observations: spaces.Space[Any], actions: spaces.Space[Any]) -> str:
        """Prepare for a pair of spaces; return its name.

        Raises:
            ValueError: if the actions are not to be chosen from.
        """
        if not isinstance(actions, spaces.Discrete):
            raise ValueError(
                f"learner=nec chooses among gymnasium.spaces.Discrete, not {actions}: choose "
                "learner=recurrent_ppo."
            )
        signature = signature_of(observations, actions)
        if signature not in self.agent:
            seed = int(signature, 16) + self.seed
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(seed)
                embed = SpaceEncoder(observations, self.key_size)
            values = ActionValues(int(actions.n), key_size=self.key_size, **self.stores)
            self.agent[signature] = EpisodicControl(
                spaces.flatdim(observations), values, self.key_size, embed=embed, seed=seed,
                **self.options,
            )  # fmt: skip
        return signature

    def begin(self) -> None:
        """Make nothing of it that an experience begins."""

    def update(
        self,
        signature: str,
        stage: Stage,
        share: float = 0.0,
        hooks: Hooks = NO_HOOKS,
    ) -> Lived:
        """Live some steps in every row of a stage and learn on the way."""
        agent = self.who(signature)
        if stage.carried is None:
            stage.carried = [[] for _ in range(stage.rows)]
        losses: list[float] = []
        for _ in range(self.horizon):
            losses += self._step(agent, stage)
        loss = sum(losses) / max(1, len(losses))
        numbers = {"loss": loss, "entries": float(self.entries)}
        steps = self.horizon * stage.rows
        return Lived(steps, stage.take_ended(), stage.take_faults(), numbers)

    def who(self, signature: str) -> EpisodicControl:
        """Return the agent of a pair of spaces."""
        agent: Any = self.agent[signature]
        assert isinstance(agent, EpisodicControl)
        return agent

    def player(self, signature: str, sampled: bool = False, seed: int = 0) -> "EpisodicPlayer":
        """Return who acts in examinations: greedily, or exploring as it does last."""
        return EpisodicPlayer(self.who(signature), sampled, seed)

    @property
    def entries(self) -> int:
        """How many states all stores hold."""
        return sum(len(self.who(signature).memory) for signature in self.agent)

    @property
    def nbytes(self) -> int:
        """Bytes of all stores and of what is kept for replay."""
        whos = [self.who(signature) for signature in self.agent]
        replays: int = sum(getattr(who, name).nbytes for who in whos for name in _KEPT)
        return replays + sum(who.memory.nbytes for who in whos)

    def state(self) -> dict[str, Any]:
        """Return all that another update depends on, as a tree of tensors and numbers."""
        return {signature: _state(self.who(signature)) for signature in self.agent}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what `state` returned; the same spaces were met."""
        for signature, kept in state.items():
            _restore(self.who(signature), kept)

    def pack(self, carried: list[list[Step]]) -> Any:
        """Return the episodes that are not over yet as a tree."""
        return [
            [[torch.from_numpy(step.observation), *step[1:]] for step in row] for row in carried
        ]

    def unpack(self, tree: Any, rows: int) -> list[list[Step]]:
        """Return what `pack` made a tree of."""
        return [[Step(step[0].numpy(), *step[1:]) for step in row] for row in tree]

    def _step(self, agent: EpisodicControl, stage: Stage) -> list[float]:
        """Take one step in every row, remember what ended, and learn; return the losses."""
        seen_BO = stage.observation_BO
        name_B = np.array([control.name_of(seen_O) for seen_O in seen_BO])
        action_B, key_BD, value_B = agent.act(seen_BO, name_B)
        agent.note(name_B, action_B)
        start = int(stage.envs.single_action_space.start)  # type: ignore[attr-defined]
        moved = stage.step(action_B + start)
        losses = []
        for row, episode in enumerate(stage.carried):
            episode.append(
                Step(seen_BO[row], int(name_B[row]), key_BD[row], int(action_B[row]),
                     float(moved.reward_B[row]), float(value_B[row]))
            )  # fmt: skip
            agent.lived += 1
            if moved.terminated_B[row] or moved.truncated_B[row]:
                agent.remember(episode, self._after(agent, moved, row))
                episode.clear()
            if agent.learn_every and agent.kept and agent.lived % agent.learn_every == 0:
                losses.append(agent.learn())
        return losses

    def _after(self, agent: EpisodicControl, moved: Moved, row: int) -> float:
        """Return what comes after an episode's last step: nothing, if it was not cut."""
        if moved.terminated_B[row]:
            return 0.0
        return control.value_of(agent, moved.final_BO[row])


class EpisodicPlayer:
    """Acts by the stored values, and leaves no trace: neither use nor draws are counted.

    Args:
        agent: who acts.
        sampled: whether it explores, as much as it does at last.
        seed: of what is drawn, among equals too.
    """

    def __init__(self, agent: EpisodicControl, sampled: bool, seed: int) -> None:
        self.agent, self.sampled, self.seed = agent, sampled, seed
        self.random: Any = np.random.default_rng(seed)

    def begin(self, rows: int, key_B: np.ndarray) -> None:
        """Begin episodes, each with draws of its own."""
        self.random = _RowByRow([np.random.default_rng([self.seed, key]) for key in key_B.tolist()])

    def act(self, observation_BO: np.ndarray) -> np.ndarray:
        """Return an action for every row."""
        agent, own = self.agent, self.agent.random
        agent.random, lived = self.random, agent.lived
        agent.lived = max(lived, agent.explore_for)
        try:
            with agent.memory.frozen():
                names = np.array([control.name_of(seen_O) for seen_O in observation_BO])
                return agent.act(observation_BO, names, greedy=not self.sampled)[0]
        finally:
            agent.random, agent.lived = own, lived


class _RowByRow:
    """Draws as a generator does, for each row from its own: whatever stands beside it."""

    def __init__(self, of_B: list[np.random.Generator]) -> None:
        self._of_B = of_B

    def random(self, shape: int | tuple[int, ...]) -> np.ndarray:
        own = shape[1:] if isinstance(shape, tuple) else ()
        return np.stack([np.asarray(of.random(own)) for of in self._of_B])

    def integers(self, most: int, size: int) -> np.ndarray:
        return np.array([of.integers(most) for of in self._of_B])


def _state(agent: EpisodicControl) -> dict[str, Any]:
    return {
        "weights": dict(agent.state_dict()),
        "optimizer": agent.optimizer.state_dict(),
        "memory": agent.memory.snapshot(),
        "random": agent.random.bit_generator.state,
        **{name: getattr(agent, name) for name in _MOVING},
        **{name: torch.from_numpy(getattr(agent, name).copy()) for name in _KEPT},
    }


def _restore(agent: EpisodicControl, state: dict[str, Any]) -> None:
    agent.load_state_dict(state["weights"])
    agent.optimizer.load_state_dict(state["optimizer"])
    agent.memory.restore(state["memory"])
    agent.random.bit_generator.state = state["random"]
    for name in _MOVING:
        setattr(agent, name, state[name])
    for name in _KEPT:
        if name in state:  # a checkpoint of before the counts has none
            setattr(agent, name, state[name].numpy().copy())
