"""Teaching a memory policy: three ways, one for each kind of policy.

- `loss`: the probability of a right answer, through the strength with which an item was written;
- `log_prob`: a policy gradient on the reward to come (Williams 1992, REINFORCE), with a baseline
  that learns what reward to expect of a question; of a story that is told several times, also with
  the mean of its other tellings (Kool et al. 2019);
- `worth`: counterfactual credit. Every item that was heard, kept or not, stands in a shadow;
  answers are read over random sets of it, all in one batch, and the credit of an item is by how
  much more likely the right answer is where it is in the set (a Banzhaf value, by regression).
  Sets are of what a decision is about, and of what is told after it; the worth that the policy
  gives is moved towards the credit in the questions that follow.

The reader stays as it is; while it learns as well, a policy learns from the stories that were just
lived (`lived.Lived`). A policy says by its attribute `learns_by` which of them is its own.

Letters: B stories, T statements, Q questions, G random sets, N slots, M = N + 1, D width.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from stillknows.agents.optimizer import clip_gradient, load_optimizer
from stillknows.agents.progress import Bar
from stillknows.agents.teaching.trial import Question, Trial, Watcher
from stillknows.envs.text import Story
from stillknows.memory.interface import Features, Policy, map_state
from stillknows.memory.policies.rules import EvictOldest
from stillknows.memory.slots import Slots, SlotsState

WAYS = ("loss", "log_prob", "worth")
TELLINGS = 4


class Baseline(nn.Module):
    """Expects the reward of a question from its vector and the share of it that could be held.

    Args:
        width: of the question's vector (D).
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.network = nn.Sequential(nn.Linear(width + 1, 32), nn.Tanh(), nn.Linear(32, 1))

    def forward(self, trial: Trial, slots: int) -> Tensor:
        """Return what is expected, `[B, Q]`."""
        expected = []
        for question in trial.questions:
            room_B1 = slots / question.after_B.clamp(min=1)[:, None].float()
            seen_BX = torch.cat([question.thought.fused_BD.detach(), room_B1], dim=1)
            expected.append(self.network(seen_BX)[:, 0])
        return torch.stack(expected, dim=1)


class Teacher:
    """Trains a policy in place, an update at a time.

    Args:
        policy: a module whose `learns_by` is one of `WAYS`.
        width: of the reader's vectors (D).
        learning_rate: of Adam.
        write_cost: price, in the unit of what is learned from, of writing everything.
        sets: random sets of a question, for `worth`.
        seed: of these.

    Raises:
        ValueError: if the policy says no way to learn, or lacks what its way takes.
    """

    def __init__(
        self,
        policy: Any,
        width: int,
        *,
        learning_rate: float = 3e-3,
        write_cost: float = 0.0,
        sets: int = 16,
        seed: int = 0,
    ) -> None:
        self.way = getattr(policy, "learns_by", None)
        if self.way not in WAYS:
            raise ValueError(
                f"{type(policy).__name__} learns by {self.way}: learns_by is one of "
                f"{', '.join(WAYS)}."
            )
        if not isinstance(policy, nn.Module):
            raise ValueError(f"{type(policy).__name__} has no weights: it learns as an nn.Module.")
        if self.way == "worth" and not hasattr(policy, "worth"):
            raise ValueError(f"{type(policy).__name__} learns by worth: give it worth(features).")
        self.policy: Any = policy
        self.write_cost, self.sets = write_cost, sets
        device = next((parameter.device for parameter in policy.parameters()), None)
        self.baseline = Baseline(width).to(device)
        self.parameters = [*policy.parameters(), *self.baseline.parameters()]
        self.optimizer = torch.optim.Adam(self.parameters, lr=learning_rate)
        self.draw = torch.Generator().manual_seed(seed)

    def update(self, trial: Trial, slots: int) -> float:
        """Learn from some stories with a budget of so many slots; return the loss."""
        self.policy.explores = True
        try:
            loss = self._loss(trial, slots)
        finally:
            self.policy.explores = False
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        clip_gradient(self.parameters, 1.0)
        self.optimizer.step()
        return loss.item()

    def state(self) -> dict[str, Any]:
        """Return what it knows beside the policy, whose weights are the agent's."""
        return {
            "optimizer": self.optimizer.state_dict(),
            "baseline": dict(self.baseline.state_dict()),
            "draw": self.draw.get_state(),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Become what `state` was asked of."""
        load_optimizer(self.optimizer, state["optimizer"])
        self.baseline.load_state_dict(state["baseline"])
        self.draw.set_state(state["draw"])

    def told(self, stories: Sequence[Story]) -> list[Story]:
        """Return the stories to learn from: for a policy gradient a quarter, each told four times.

        So each is its own baseline, in the time of all.
        """
        if self.way != "log_prob":
            return list(stories)
        return TELLINGS * list(stories[: max(1, len(stories) // TELLINGS)])

    def _loss(self, trial: Trial, slots: int) -> Tensor:
        if self.way == "loss":
            return _through_reading(self.policy, trial, slots, self.write_cost)
        if self.way == "log_prob":
            return _through_reward(self.policy, self.baseline, trial, slots, self.write_cost)
        return _through_credit(self.policy, trial, slots, self.write_cost, self.sets, self.draw)


def teach(
    policy: Any,
    trials: Callable[[int], Trial],
    slots: Sequence[int],
    *,
    updates: int,
    bar: Bar | None = None,
    **settings: Any,
) -> None:
    """Train a policy in place, before a reader that stays as it is.

    Args:
        policy: a module whose `learns_by` is one of `WAYS`.
        trials: gives the stories of an update, by its number.
        slots: budgets, one after another.
        updates: how many; the learning rate falls to a tenth along half a cosine.
        bar: shows how far it is.
        **settings: of `Teacher`.

    Raises:
        ValueError: if the policy says no way to learn.
    """
    teacher = Teacher(policy, trials(0).items_BTD.shape[2], **settings)
    highest = teacher.optimizer.param_groups[0]["lr"]
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(teacher.optimizer, updates, highest / 10)
    policy.train()
    for number in range(updates):
        loss = teacher.update(trials(number), slots[number % len(slots)])
        schedule.step()
        if bar is not None:
            bar(type(policy).__name__, number + 1, loss)
    policy.eval()


def _through_reading(policy: Policy, trial: Trial, slots: int, write_cost: float) -> Tensor:
    outcome = trial.run(policy, slots)
    right = (-outcome.loss_BQ).exp().nanmean()  # in nats, stale facts would outweigh the others
    loss: Tensor = write_cost * outcome.writes_B.mean() - right
    return loss


def _through_reward(
    policy: Policy, baseline: Baseline, trial: Trial, slots: int, write_cost: float
) -> Tensor:
    """Return a loss whose gradient is the policy gradient, and that of the baseline.

    What is right at a question is due to the decisions before it; the price is of all that is
    written, so that decisions after a question pay their part of it as well.

    Raises:
        ValueError: if decisions do not tell how likely they were.
    """
    outcome = trial.run(policy, slots)
    log_prob_BQ = outcome.log_prob_BQ
    if trial.present_BT.any() and not log_prob_BQ.requires_grad:
        raise ValueError(
            f"{type(policy).__name__} learns by log_prob, and log_prob_B of its decisions has no "
            "gradient: sample while `explores` is true, and tell how likely that was."
        )
    asked_BQ = ~outcome.right_BQ.isnan()
    price_BQ = write_cost * outcome.writes_B.detach()[:, None] * asked_BQ
    reward_BQ = outcome.right_BQ.nan_to_num() - price_BQ
    expected_BQ = baseline(trial, slots)
    gain_BQ = beyond_others(trial, reward_BQ - expected_BQ.detach()) * asked_BQ
    later_BQ = log_prob_BQ[:, -1:] - log_prob_BQ
    actor_BQ = beyond_others(trial, price_BQ) * later_BQ - gain_BQ * log_prob_BQ
    actor = actor_BQ.sum(dim=1).mean()
    error = ((expected_BQ - reward_BQ).square() * asked_BQ).sum(dim=1).mean()
    loss: Tensor = actor + error
    return loss


def beyond_others(trial: Trial, gain_BQ: Tensor) -> Tensor:
    """Return gains less the mean of the other rows with the same story, where there are such."""
    episodes = torch.tensor([story.episode for story in trial.stories])
    same_BB = (episodes[:, None] == episodes).float().fill_diagonal_(0).to(gain_BQ)
    others_B1 = same_BB.sum(dim=1, keepdim=True)
    return gain_BQ - same_BB @ gain_BQ / others_B1.clamp(min=1)


def _through_credit(
    policy: Any, trial: Trial, slots: int, write_cost: float, sets: int, draw: torch.Generator
) -> Tensor:
    """Return how far the worths at one decision a story are from what is earned after it."""
    pool = pools(policy, trial, slots, draw)
    earned_BT = earned(trial, pool, slots, sets, draw)
    features = pool.features(trial)
    target_BM = earned_BT.gather(1, pool.item_BM) - write_cost / earned_BT.shape[1]
    here_BM = nn.functional.pad(features.filled_BN, (0, 1), value=True)
    error_BM = (policy.worth(features) - target_BM).square() * here_BM
    mean: Tensor = error_BM.sum() / here_BM.sum()
    return mean


class Pool(NamedTuple):
    """What a decision is about, in each story: what is held, and the statement that is offered.

    Attributes:
        time_B: the number of that statement, int64.
        item_BM: the statements that are held, and last the one offered, int64.
        filled_BN: which of the slots hold one.
        in_BT: all of them by their numbers; bool.
    """

    time_B: Tensor
    item_BM: Tensor
    filled_BN: Tensor
    in_BT: Tensor

    def features(self, trial: Trial) -> Features:
        """Return what a policy sees of it: contents and ages."""
        rows_B1 = torch.arange(len(self.time_B), device=self.time_B.device)[:, None]
        content_BMW = trial.items_BTD[rows_B1, self.item_BM]
        age_BN = (self.time_B[:, None] - self.item_BM[:, :-1]).float() * self.filled_BN
        zeros_BN = torch.zeros_like(age_BN)
        return Features(
            candidate_BW=content_BMW[:, -1],
            similarity_BN=zeros_BN,
            usage_BN=zeros_BN,
            age_BN=age_BN,
            idle_BN=age_BN,
            filled_BN=self.filled_BN,
            seen_B=self.time_B,
            noise_BM=torch.zeros_like(self.item_BM, dtype=torch.float32),
            known_B=torch.full_like(self.time_B, -1),
            content_BNW=content_BMW[:, :-1] * self.filled_BN[..., None],
        )


@torch.no_grad()
def pools(policy: Policy, trial: Trial, slots: int, draw: torch.Generator) -> Pool:
    """Return one decision a story: at any statement; of what is held, half as the policy has it.

    In the other half, any of what came before is held, so that what a policy refuses or lets go
    goes on earning credit.
    """
    device = trial.items_BTD.device
    batch, steps = trial.present_BT.shape
    count_B = torch.stack([question.after_B for question in trial.questions]).amax(dim=0)
    time_B = (torch.rand(batch, generator=draw).to(device) * count_B).long()
    before_BT = torch.arange(steps, device=device) < time_B[:, None]
    order_BT = torch.rand(batch, steps, generator=draw).to(device).masked_fill(~before_BT, 2.0)
    any_BN = order_BT.argsort(dim=1)[:, :slots]
    any_BN = nn.functional.pad(any_BN, (0, slots - any_BN.shape[1]))
    there_BN = torch.arange(slots, device=device) < time_B[:, None]
    held_BN, filled_BN = _held(policy, trial, slots, time_B)
    own_B1 = torch.rand(batch, 1, generator=draw).to(device) < 0.5
    held_BN = torch.where(own_B1, held_BN, any_BN)
    filled_BN = torch.where(own_B1, filled_BN, there_BN)
    item_BM = torch.cat([held_BN.clamp(min=0) * filled_BN, time_B[:, None]], dim=1)
    in_BM = nn.functional.pad(filled_BN, (0, 1), value=True)
    in_BT = torch.zeros(batch, steps, device=device).scatter_add(1, item_BM, in_BM.float()) > 0
    return Pool(time_B, item_BM, filled_BN, in_BT)


def _held(policy: Policy, trial: Trial, slots: int, time_B: Tensor) -> tuple[Tensor, Tensor]:
    """Return which statement each slot holds when one is offered, and which slots hold any."""
    watcher = Watcher(policy)
    trial.run(watcher, slots)
    seen_BT = torch.stack([features.seen_B for features in watcher.features], dim=1)
    at_B = (seen_BT == time_B[:, None]).long().argmax(dim=1)
    age_BTN = torch.stack([features.age_BN for features in watcher.features], dim=1)
    filled_BTN = torch.stack([features.filled_BN for features in watcher.features], dim=1)
    rows_B = torch.arange(len(time_B), device=time_B.device)
    return time_B[:, None] - age_BTN[rows_B, at_B].long(), filled_BTN[rows_B, at_B]


def earned(trial: Trial, pool: Pool, slots: int, sets: int, draw: torch.Generator) -> Tensor:
    """Return the credit of each statement of a pool in the questions after its decision, `[B, T]`.

    Arguments as of `credit`.
    """
    earned_BT = torch.zeros_like(pool.in_BT, dtype=torch.float32)
    for question in trial.questions:
        to_come_B1 = (question.after_B > pool.time_B)[:, None]
        earned_BT += to_come_B1 * credit(trial, question, pool, slots, sets, draw)
    return earned_BT


@torch.no_grad()
def credit(
    trial: Trial, question: Question, pool: Pool, slots: int, sets: int, draw: torch.Generator
) -> Tensor:
    """Return what each statement of a pool adds to p(right answer), `[B, T]`, 0 elsewhere.

    In nats, a fact that misleads a sure reader where it has gone stale would outweigh all that it
    does before.

    In a random set three quarters of the pool are kept, and of what is told between the decision
    and the question, as large a share as there would be room for.

    Args:
        trial: the stories and their reader.
        question: one of its questions.
        pool: what a decision is about.
        slots: the budget.
        sets: how many random sets are read (G).
        draw: where they come from.
    """
    memory, shadow = heard(trial, question)
    device = shadow.birth_BN.device
    number_T = torch.arange(shadow.birth_BN.shape[1], device=device)
    later_BT = (number_T > pool.time_B[:, None]) & (number_T < question.after_B[:, None])
    room_B1 = (slots / question.after_B.clamp(min=1)).clamp(max=0.75)[:, None]
    share_BT = 0.75 * pool.in_BT + room_B1 * later_BT
    in_GBT = torch.rand(sets, *share_BT.shape, generator=draw).to(device) < share_BT
    some = map_state(lambda part: part.repeat(sets, *[1] * (part.dim() - 1)), shadow)
    some = some._replace(birth_BN=some.birth_BN.masked_fill(~in_GBT.flatten(0, 1), -1))
    loss_B = trial.answered(memory, some, _repeated(question, sets))[1]
    gain_GB = (-loss_B).exp().view(sets, -1).nan_to_num()
    gain_GB = gain_GB - gain_GB.mean(dim=0)
    apart_GBT = in_GBT.float() - in_GBT.float().mean(dim=0)
    spread_BT = apart_GBT.square().sum(dim=0).clamp(min=0.5)
    return (apart_GBT * gain_GB[..., None]).sum(dim=0) / spread_BT * pool.in_BT


def heard(trial: Trial, question: Question) -> tuple[Slots, SlotsState]:
    """Return a memory of all that was heard before a question: slot n holds statement n."""
    memory = trial.memory(max(1, trial.items_BTD.shape[1]))
    state = memory.initial_state(len(trial.stories), trial.items_BTD.device)
    begin_B = torch.zeros_like(question.after_B)
    items_BSD, here_BS = trial.between(begin_B, question.after_B)
    return memory, memory.write(state, items_BSD, here_BS, EvictOldest())


def _repeated(question: Question, times: int) -> Question:
    """Return a question with all its rows so many times, one after another."""

    def again(part: Tensor) -> Tensor:
        return part.repeat(times, *[1] * (part.dim() - 1))

    thought = question.thought
    cache = [(again(keys), again(values)) for keys, values in thought.cache]
    thought = thought._replace(
        text_BL=again(thought.text_BL), cache=cache, fused_BD=again(thought.fused_BD)
    )
    return Question(
        again(question.after_B), thought, again(question.target_BA), again(question.asked_B)
    )
