"""What an acting agent keeps of its life: stretches of experience in a lifelong store.

An entry of the store is a stretch of L steps in a row: what was seen, done, paid and expected, how
likely every action was, and the core's state before it. Its numbers are the entry's vector; its
answer is the number of its pair of spaces, in the order in which these were met. Nothing in it
tells of the task. What was expected is kept in the unit of rewards, whatever deviation these were
divided by at the time.

Letters: L steps of a stretch, M stretches, O numbers of an observation, A parts of an action, W
numbers that describe a distribution, V numbers of an entry.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from stillknows.agents.acting.control_agent import ControlAgent, Thoughts
from stillknows.agents.acting.rollout import Rollout, joined
from stillknows.memory.episodic import Candidates, Written
from stillknows.memory.interface import map_state
from stillknows.memory.nec import NEC


class Remembered(NamedTuple):
    """Stretches of one pair of spaces, side by side.

    Attributes:
        signature: of the spaces.
        observation_LMO: what was seen.
        action_LMA: what was done.
        policy_LMW: the distribution that it was drawn from, as `actions.whole` describes it.
        reward_LM: what it gave.
        value_LM: what the critic expected.
        after_LM: where the step ended the episode, what was expected after it; else 0.
        ended_LM: whether the step ended the episode.
        started_LM: whether an episode began with what was seen.
        state: of the core before the first step.
        slots_M: where the stretches are in the store.
    """

    signature: str
    observation_LMO: Tensor
    action_LMA: Tensor
    policy_LMW: Tensor
    reward_LM: Tensor
    value_LM: Tensor
    after_LM: Tensor
    ended_LM: Tensor
    started_LM: Tensor
    state: Any
    slots_M: Tensor


class Experience:
    """A lifelong store of stretches.

    Args:
        agent: whose experience; its bodies say how a stretch of each pair of spaces is read.
        store_of: makes the store, of vectors with so many numbers; it is asked when there is
            something to remember, and all spaces have been met.
        steps: of a stretch (L).

    Attributes:
        store: None before there was something to remember.
        began: how many stretches had been offered when what is lived now began.
    """

    def __init__(self, agent: ControlAgent, store_of: Callable[[int], NEC], steps: int) -> None:
        self.agent, self.store_of, self.steps = agent, store_of, steps
        self.store: NEC | None = None
        self.began = 0

    def __len__(self) -> int:
        """Return how many stretches there are."""
        return 0 if self.store is None else len(self.store)

    @property
    def nbytes(self) -> int:
        """Bytes of the store, whether filled or not."""
        return 0 if self.store is None else self.store.nbytes

    def open(self) -> NEC:
        """Return the store, made if there is none yet: the spaces met by now are what fits."""
        if self.store is None:
            self.store = self.store_of(max(map(self._size, self.agent.bodies)))
        return self.store

    def begin(self) -> None:
        """Hear that something else is lived from now on."""
        self.began = 0 if self.store is None else self.store.seen

    def remember(self, stretches: Rollout, advantage_LM: Tensor, unit: float) -> list[Written]:
        """Offer stretches to the store; return what became of each.

        Args:
            stretches: side by side, as `rollout.stretches_of` returns them.
            advantage_LM: of what was done.
            unit: of rewards and values, in that of the environment's rewards.
        """
        rollout, steps = stretches, stretches.reward_TB.shape[0]
        after_LM = torch.where(rollout.ended_TB, rollout.next_value_TB, 0.0)
        told = (rollout.reward_TB, rollout.value_TB, after_LM)
        parts = [
            rollout.observation_TBO,
            rollout.action_TBA.float(),
            rollout.policy_TBW,
            torch.stack([unit * each for each in told], dim=2),
            torch.stack([rollout.ended_TB, rollout.started_TB], dim=2).float(),
        ]
        numbers_MV = torch.cat([part.transpose(0, 1).reshape(-1, steps * part.shape[2])
                                for part in parts], dim=1)  # fmt: skip
        state = [part.flatten(1) for part in _numbers(rollout.states[0])]
        vector_MV = torch.cat([numbers_MV, *state], dim=1)
        outcome_MF = torch.stack(
            [
                -rollout.log_prob_TB.mean(dim=0),
                unit * rollout.reward_TB.mean(dim=0),
                advantage_LM.abs().mean(dim=0),
            ],
            dim=1,
        )
        return self.open().remember(self._candidates(rollout.signature, vector_MV, outcome_MF))

    def draw(self, size: int, key: int, old: bool = False) -> list[Remembered]:
        """Return so many stretches, every one as likely, those of each pair of spaces together.

        Args:
            size: how many; fewer if there are fewer.
            key: of the draw.
            old: only those from before what is lived now began.
        """
        if self.store is None or (old and not self.born(old=True).any()):
            return []
        return list(self._read(self.store.sample(size, key, self.began if old else None)))

    def born(self, old: bool) -> Tensor:
        """Return which slots hold what is older than what is lived now, or is of it, bool `[N]`."""
        assert self.store is not None
        older_N = self.store.provenance("birth") < self.began
        return self.store.columns["filled_N"] & (older_N if old else ~older_N)

    @torch.no_grad()
    def refresh(self, unit_of: Callable[[str], float], size: int, key: int) -> None:
        """Write over stretches of what is lived now what the agent would do and expects by now.

        So that when something else begins, what is kept is the last that it knew of this.

        Args:
            unit_of: of rewards and values, by the name of the spaces.
            size: of so many stretches at most.
            key: of the draw.
        """
        if self.store is None:
            return
        slots = self.born(old=False).nonzero()[:, 0]
        draws = torch.Generator().manual_seed(key)
        drawn = slots[torch.randperm(len(slots), generator=draws)[:size]].sort().values
        for then in self._read(drawn):
            now = think_again(self.agent, [then])[0]
            whole_LMW = self.agent.body(then.signature).actions.whole(now.parameters_BS)
            self.renew(then, whole_LMW, unit_of(then.signature) * now.value_B)

    def renew(self, then: Remembered, policy_LMW: Tensor, value_LM: Tensor) -> None:
        """Keep of some stretches another distribution and other values than at the time.

        Args:
            then: the stretches.
            policy_LMW: distributions, as `actions.whole` describes them.
            value_LM: values, in the unit of the environment's rewards.
        """
        assert self.store is not None
        seen, done, policy, _, _ = (self.steps * size for size in self._widths(then.signature))
        begin = seen + done
        rows_MV = self.store.columns["vectors_NV"][then.slots_M]
        rows_MV[:, begin : begin + policy] = policy_LMW.detach().transpose(0, 1).flatten(1)
        told_ML3 = rows_MV[:, begin + policy :][:, : 3 * self.steps].view(-1, self.steps, 3)
        told_ML3[:, :, 1] = value_LM.detach().T
        self.store.columns["vectors_NV"][then.slots_M] = rows_MV

    def of(self, signature: str) -> Remembered | None:
        """Return all stretches of a pair of spaces, None if there are none."""
        if self.store is None:
            return None
        filled = self.store.columns["filled_N"].nonzero()[:, 0]
        return next((each for each in self._read(filled) if each.signature == signature), None)

    def state(self) -> dict[str, Any]:
        """Return all that is kept, as a tree."""
        kept = {} if self.store is None else {"store": self.store.snapshot()}
        return {"began": self.began, **kept}

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` was asked of; the same spaces were met, in the same order."""
        self.store, self.began = None, int(state.get("began", 0))
        if "store" in state:
            self.open().restore(state["store"])

    def _read(self, slots: Tensor) -> Iterator[Remembered]:
        """Yield what is at some slots, those of each pair of spaces together."""
        assert self.store is not None
        columns, known = self.store.columns, list(self.agent.bodies)
        which = columns["answers_NA"][slots, 0].long()
        for number in which.unique().tolist():  # type: ignore[no-untyped-call]
            yield self._unpacked(known[number], slots[which == number])

    def _unpacked(self, signature: str, slots_M: Tensor) -> Remembered:
        """Return what was packed into vectors by `remember`."""
        assert self.store is not None
        vector_MV = self.store.columns["vectors_NV"][slots_M]
        rows, sizes = len(vector_MV), self._widths(signature)
        fresh = self.agent.initial_state(rows)
        kept = [part[0].numel() for part in _numbers(fresh)]
        lengths = [size * self.steps for size in sizes] + kept
        seen, done, policy, told, flags, *state = torch.split(
            vector_MV[:, : sum(lengths)], lengths, 1
        )
        seen, done, policy, told, flags = (
            part.view(rows, self.steps, size).transpose(0, 1)
            for part, size in zip((seen, done, policy, told, flags), sizes, strict=True)
        )
        action = done.to(self.agent.body(signature).actions.kind)
        ended, started = (flags > 0.5).unbind(2)
        given = iter(state)
        core = map_state(lambda part: next(given).view_as(part), fresh) if kept else fresh
        reward, value, after = told.unbind(2)
        return Remembered(
            signature, seen, action, policy, reward, value, after, ended, started, core, slots_M
        )

    def _widths(self, signature: str) -> tuple[int, ...]:
        """Return the numbers of a step: seen, done, of the distribution, told, and of flags."""
        body = self.agent.body(signature)
        return body.observation_size, body.actions.parts, body.actions.whole_size, 3, 2

    def _size(self, signature: str) -> int:
        kept = sum(part[0].numel() for part in _numbers(self.agent.initial_state(1)))
        return self.steps * sum(self._widths(signature)) + kept

    def _candidates(self, signature: str, vector_MV: Tensor, outcome_MF: Tensor) -> Candidates:
        assert self.store is not None
        rows, device = len(vector_MV), vector_MV.device
        width = self.store.columns["vectors_NV"].shape[1]
        if vector_MV.shape[1] > width:
            raise ValueError(
                "A pair of spaces with longer stretches was met when the store was in use: let "
                "the learner meet the spaces of all tasks before it lives."
            )
        whole = torch.zeros(rows, dtype=torch.int64, device=device)
        return Candidates(
            key_BD=vector_MV[:, :0],
            vector_BV=torch.nn.functional.pad(vector_MV, (0, width - vector_MV.shape[1])),
            answers_BA=whole[:, None] + list(self.agent.bodies).index(signature),
            story_BTL=whole.new_zeros(rows, 0, 0),
            hash_B=whole + torch.arange(self.store.seen, self.store.seen + rows, device=device),
            outcome_BF=outcome_MF,
            task_B=whole - 1,
            episode_B=whole - 1,
            step_B=whole - 1,
        )


def think_again(agent: ControlAgent, remembered: Sequence[Remembered]) -> list[Thoughts]:
    """Return what an agent makes now of stretches, those of all spaces through the core at once."""
    encoded = [
        agent.body(each.signature)
        .encode(each.observation_LMO.flatten(0, 1))
        .view(*each.reward_LM.shape, -1)
        for each in remembered
    ]
    started_LM = torch.cat([each.started_LM for each in remembered], dim=1)
    state, nameless_LM = joined([each.state for each in remembered]), started_LM.long() * 0
    core_LMD = agent.through(torch.cat(encoded, dim=1), state, started_LM, nameless_LM)
    parts = torch.split(core_LMD, [each.reward_LM.shape[1] for each in remembered], dim=1)
    return [agent.body(r.signature).think(part) for r, part in zip(remembered, parts, strict=True)]


def _numbers(state: Any) -> list[Tensor]:
    """Return the tensors of a core's state that can be kept as numbers: all of them or none.

    A working memory has names and counters too: its stretches begin with an empty one.
    """
    parts = _tensors(state)
    return parts if all(part.is_floating_point() for part in parts) else []


def _tensors(state: Any) -> list[Tensor]:
    if isinstance(state, Tensor):
        return [state]
    return [tensor for part in state for tensor in _tensors(part)]
