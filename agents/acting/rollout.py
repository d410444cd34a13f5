"""Acting side by side: where a task stands, what was lived there, and what it was worth.

Environments are begun anew in the step they end in (Gymnasium's `AutoresetMode.SAME_STEP`), so
every step that is kept was taken by the agent. An episode that is cut (truncated) goes on in
expectation: what comes after is worth what the critic says of the observation it was cut at. One
that is over (terminated) is worth nothing more.

Letters: T steps, B rows, L steps of a stretch, M stretches, O numbers of an observation, A parts of
an action, W numbers that describe a distribution of actions.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from stillknows.agents.acting.control_agent import ControlAgent
from stillknows.envs.control import ControlTask, Ended, Episodes, Fault, side_by_side
from stillknows.memory.interface import detach, map_state


class Moved(NamedTuple):
    """What one step of all rows gave.

    Attributes:
        reward_B: float64.
        terminated_B: which episodes are over.
        truncated_B: which were cut.
        final_BO: the observation after the step, in rows that ended the last one of the episode.
    """

    reward_B: np.ndarray
    terminated_B: np.ndarray
    truncated_B: np.ndarray
    final_BO: np.ndarray


class Stage:
    """Where a task stands: its environments, what is seen in each row, and what is carried on.

    Args:
        task: what is lived in.
        rows: environments side by side (B).
        seed: of all their episodes.
        retries: how many episodes in a row may break, in each.

    Attributes:
        observation_BO: what is seen now.
        started_B: which rows have just begun an episode.
        key_B: names of the episodes.
        carried: what the learner carries from step to step, None before the first.
        return_B: the discounted rewards of the episodes so far, of a learner that adds them up.
    """

    def __init__(self, task: ControlTask, rows: int, seed: int, retries: int = 3) -> None:
        self.task, self.rows = task, rows
        self.envs = side_by_side(task, rows, seed, retries)
        self.observation_BO: np.ndarray = self.envs.reset()[0]
        self.started_B = np.ones(rows, dtype=bool)
        self.key_B = self._keys()
        self.carried: Any = None
        self.return_B = torch.zeros(rows)

    def step(self, actions: np.ndarray) -> Moved:
        """Take one step in every row; where it ends an episode, the next has begun after it."""
        after_BO, reward_B, terminated_B, truncated_B, info = self.envs.step(actions)
        final_BO = after_BO.copy()
        ended_B = terminated_B | truncated_B
        for row in np.flatnonzero(ended_B):
            final_BO[row] = info["final_obs"][row]
        self.observation_BO, self.started_B, self.key_B = after_BO, ended_B, self._keys()
        return Moved(reward_B, terminated_B, truncated_B, final_BO)

    def take_ended(self) -> list[Ended]:
        """Return the episodes that ended since the last call, row by row."""
        return [each for row in self._rows() for each in _taken(row.ended)]

    def take_faults(self) -> list[Fault]:
        """Return the episodes that broke since the last call."""
        return [each for row in self._rows() for each in _taken(row.faults)]

    def state(self, pack: Callable[[Any], Any]) -> dict[str, Any]:
        """Return where it stands, as a tree of tensors and numbers.

        Args:
            pack: makes a tree of what is carried.
        """
        return {
            "numbers": [row.number for row in self._rows()],
            "broken": [row.broken for row in self._rows()],
            "actions": [[torch.as_tensor(np.asarray(a)) for a in row.actions]
                        for row in self._rows()],
            "observation": torch.from_numpy(self.observation_BO.copy()),
            "started": torch.from_numpy(self.started_B.copy()),
            "carried": None if self.carried is None else pack(self.carried),
            "return": self.return_B.clone(),
        }  # fmt: skip

    def restore(self, state: dict[str, Any], unpack: Callable[[Any], Any]) -> None:
        """Stand where `state` said, by taking every row's last actions again.

        Raises:
            ValueError: if the environment does not repeat itself.
        """
        rows = zip(self._rows(), state["numbers"], state["actions"], strict=True)
        seen = [row.go_to(number, [a.numpy()[()] for a in done]) for row, number, done in rows]
        for row, broken in zip(self._rows(), state.get("broken", ()), strict=False):
            row.broken = int(broken)  # checkpoints of before do not say it
        self.observation_BO = np.stack(seen)
        if not np.array_equal(self.observation_BO, state["observation"].numpy()):
            raise ValueError(
                f"{self.task.name} does not repeat itself with the same seed and actions: a life "
                "in it cannot go on where it stopped."
            )
        self.started_B, self.key_B = state["started"].numpy().copy(), self._keys()
        self.carried = None if state["carried"] is None else unpack(state["carried"])
        self.return_B = state.get("return", self.return_B).clone()

    def close(self) -> None:
        """Close the environments."""
        self.envs.close()

    def _rows(self) -> list[Episodes]:
        rows: Any = self.envs.envs
        return list(rows)

    def _keys(self) -> np.ndarray:
        keys = [env.number * self.rows + row for row, env in enumerate(self._rows())]
        return np.array(keys, dtype=np.int64)


class Rollout(NamedTuple):
    """What was lived in T steps of B rows.

    Attributes:
        signature: of the spaces.
        observation_TBO: what was seen.
        action_TBA: what was done.
        log_prob_TB: of it.
        policy_TBW: the distribution that it was drawn from, as `actions.whole` describes it.
        reward_TB: what it gave.
        value_TB: what the critic expected.
        next_value_TB: what it expected after the step: 0 where the episode was over, the value of
            the last observation where it was cut.
        ended_TB: whether the step ended the episode, one way or the other.
        started_TB: whether an episode began with what was seen.
        key_TB: names of the episodes.
        states: the core's state before every `chunk` steps.
        chunk: steps from one of them to the next.
    """

    signature: str
    observation_TBO: Tensor
    action_TBA: Tensor
    log_prob_TB: Tensor
    policy_TBW: Tensor
    reward_TB: Tensor
    value_TB: Tensor
    next_value_TB: Tensor
    ended_TB: Tensor
    started_TB: Tensor
    key_TB: Tensor
    states: tuple[Any, ...]
    chunk: int


@torch.no_grad()
def collect(
    agent: ControlAgent,
    signature: str,
    stage: Stage,
    steps: int,
    chunk: int,
    generator: torch.Generator,
) -> Rollout:
    """Live T steps in every row and return them.

    Args:
        agent: who acts.
        signature: of the spaces.
        stage: where; it stands T steps further afterwards.
        steps: T.
        chunk: steps from one kept state of the core to the next; T is a multiple of it.
        generator: of the actions that are drawn.
    """
    device, body = agent.device, agent.body(signature)
    if stage.carried is None:
        stage.carried = agent.initial_state(stage.rows)
    # laid out as a file holds it: a life that goes on from one computes the very same numbers
    stage.carried = map_state(Tensor.contiguous, detach(stage.carried))
    columns: list[tuple[Tensor, ...]] = []
    states = []
    for step in range(steps):
        seen_BO, started_B, key_B = _here(stage, device)
        if step % chunk == 0:
            states.append(detach(stage.carried))
        state = agent.begin_rows(stage.carried, started_B, key_B)
        stage.carried, thoughts = agent.step(signature, seen_BO, state)
        action_BA = body.actions.sample(thoughts.parameters_BS, generator)
        log_prob_B = body.actions.log_prob(thoughts.parameters_BS, action_BA)
        moved = stage.step(body.actions.native(action_BA))
        cut_B = _worth_of_cut(agent, signature, stage, moved)
        ended_B = torch.from_numpy(moved.terminated_B | moved.truncated_B).to(device)
        reward_B = torch.from_numpy(moved.reward_B).float().to(device)
        columns.append(
            (seen_BO, action_BA, log_prob_B, body.actions.whole(thoughts.parameters_BS), reward_B,
             thoughts.value_B, cut_B, ended_B, started_B, key_B)
        )  # fmt: skip
    seen_BO, started_B, key_B = _here(stage, device)
    state = agent.begin_rows(stage.carried, started_B, key_B)
    last_B = agent.step(signature, seen_BO, state)[1].value_B
    seen, action, log_prob, policy, reward, value, cut, ended, started, key = (
        torch.stack(column) for column in zip(*columns, strict=True)
    )
    going_on_TB = torch.cat([value[1:], last_B[None]])
    next_value = torch.where(ended, cut, going_on_TB)
    return Rollout(signature, seen, action, log_prob, policy, reward, value, next_value, ended,
                   started, key, tuple(states), chunk)  # fmt: skip


def advantages(
    reward_TB: Tensor,
    value_TB: Tensor,
    next_value_TB: Tensor,
    ended_TB: Tensor,
    discount: float,
    trace: float,
) -> Tensor:
    """Return generalised advantages (Schulman et al. 2016, arXiv:1506.02438, equation 16).

    `d_t = r_t + gamma V'_t - V_t`, `A_t = d_t + gamma lambda (1 - ended_t) A_{t+1}`, where V'_t is
    the worth of what comes after the step: nothing after the end of an episode, and after a cut
    the value of the last observation.

    Args:
        reward_TB: r.
        value_TB: V.
        next_value_TB: V'.
        ended_TB: whether the step ended the episode; bool.
        discount: gamma.
        trace: lambda.

    Returns:
        `[T, B]`; the targets of the critic are these plus V.
    """
    error_TB = reward_TB + discount * next_value_TB - value_TB
    going_on_TB = discount * trace * (~ended_TB).to(error_TB)
    advantage_TB = torch.empty_like(error_TB)
    after_B = torch.zeros_like(error_TB[0])
    for t in reversed(range(len(error_TB))):
        after_B = error_TB[t] + going_on_TB[t] * after_B
        advantage_TB[t] = after_B
    return advantage_TB


def stretches_of(rollout: Rollout, places: Tensor) -> Rollout:
    """Return some stretches of a rollout, side by side as its rows.

    Args:
        rollout: of T steps and B rows: T / L stretches of each row, counted row by row within each
            L steps.
        places: which of them, `[M]`.
    """
    columns: dict[str, Any] = {
        name: cut(part, rollout.chunk)[:, places]
        for name, part in rollout._asdict().items()
        if isinstance(part, Tensor)
    }
    state = joined(rollout.states)
    return rollout._replace(**columns, states=(map_state(lambda part: part[places], state),))


def cut(part_TB: Tensor, chunk: int) -> Tensor:
    """Return `[T, B, ...]` as `[L, T / L * B, ...]`."""
    pieces = part_TB.view(-1, chunk, *part_TB.shape[1:]).transpose(0, 1)
    return pieces.flatten(1, 2)


def joined(states: Sequence[Any]) -> Any:
    """Return states as one, their rows one after the other."""
    if isinstance(states[0], Tensor):
        return torch.cat(list(states))
    return type(states[0])(*(joined(parts) for parts in zip(*states, strict=True)))


def _worth_of_cut(agent: ControlAgent, signature: str, stage: Stage, moved: Moved) -> Tensor:
    """Return what the critic expects after the last observation of rows that were cut, else 0."""
    cut_B = torch.from_numpy(moved.truncated_B & ~moved.terminated_B).to(agent.device)
    if not cut_B.any():
        return torch.zeros(stage.rows, device=agent.device)
    final_BO = torch.tensor(moved.final_BO, device=agent.device)
    value_B = agent.step(signature, final_BO, stage.carried)[1].value_B
    return torch.where(cut_B, value_B, 0.0)


def _here(stage: Stage, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    parts = stage.observation_BO, stage.started_B, stage.key_B
    # copied: NumPy does not align memory as matrix products like it, and sums would differ
    seen_BO, started_B, key_B = (torch.tensor(part, device=device) for part in parts)
    return seen_BO, started_B, key_B


def _taken(events: list[Any]) -> list[Any]:
    """Return what is in a list and leave it empty."""
    taken = events.copy()
    events.clear()
    return taken
