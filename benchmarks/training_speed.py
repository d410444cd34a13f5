"""What a memory costs: tokens a second in training, beside plain training of the same transformer.

    python benchmarks/training_speed.py                     # the default agent
    python benchmarks/training_speed.py --width 128 --heads 8 --rounds 40

All contenders are trained on the same stories (where an object is), with the same optimisers, one
thread, in one process, interleaved; medians of the updates after some that do not count, in which
agents learn to end their answers. Tokens are those of the stories, questions included, whether a
contender reads them once or more often; rehearsed ones count as cost, not as tokens. Every
contender pays for its environment. Operations are those of products and attention, forward and
backward, and of the optimiser's products: where these are as fast for all, no way to compute the
same comes below their ratio.

- plain: each story is one text, every next token is predicted (no questions are answered);
- context: the agent without memories, which reads the whole story again at every question;
- mean: the agent whose memory is the mean of what it heard: the cost of all but the memory;
- slots: the agent with its working memory alone;
- both: the full agent, with recall and rehearsal.
"""

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import hydra.utils
import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from tqdm import trange

from stillknows.agents.assembly import build_agent
from stillknows.agents.configuration import compose_config
from stillknows.agents.controllers.tokenizer import PAD, pad
from stillknows.agents.episode import live
from stillknows.agents.optimizer import build_optimizer
from stillknows.envs.tasks import make
from stillknows.memory.interface import Read

Update = Callable[[int], int]  # of an update's number; the tokens of its stories, 0 if not counted
TASK = "where_object"
ARMS = {
    "context": ("arm=none", "working_memory=none", "agent.context=64"),
    "mean": ("arm=none", "working_policy=evict_oldest"),
    "slots": ("arm=none",),
    "both": ("arm=both",),
}


class MeanState(NamedTuple):
    """The sum of the items so far, `[B, W]`, and how many they are, `[B, 1]`."""

    sum_BW: Tensor
    count_B1: Tensor


class Mean(nn.Module):
    """A working memory that reads the mean of all items, as often as another one reads."""

    def __init__(self, word_size: int, reads: int) -> None:
        super().__init__()
        self.word_size, self.reads = word_size, reads

    def initial_state(self, batch: int, device: Any = "cpu", key_B: Any = None) -> MeanState:
        """Return the state before the first item."""
        return MeanState(torch.zeros(batch, self.word_size), torch.zeros(batch, 1))

    def sequence(
        self, state: MeanState, items_BTW: Tensor, present_BT: Tensor, policy: Any
    ) -> tuple[MeanState, Read]:
        """Take all items but the last, the query, and read."""
        here_BT1 = present_BT[:, :-1, None]
        sum_BW = state.sum_BW + (items_BTW[:, :-1] * here_BT1).sum(dim=1)
        count_B1 = state.count_B1 + here_BT1.sum(dim=1)
        mean_BRW = (sum_BW / count_B1.clamp(min=1))[:, None].expand(-1, self.reads, -1)
        nothing_BR0 = mean_BRW[..., :0]
        return MeanState(sum_BW, count_B1), Read(mean_BRW, nothing_BR0.long(), nothing_BR0)


def composed(options: Sequence[str]) -> tuple[Any, Any, Any]:
    """Return a configuration, its agent, and the task's environment."""
    config = compose_config([f"stream.tasks.tasks=[{TASK}]", *options])
    torch.manual_seed(0)
    tasks = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
    return config, build_agent(config, tasks), make(tasks[0], config.rows, tasks[0].train)


def heard(env: Any, number: int, rows: int) -> list[list[str]]:
    """Return the sentences of a batch of stories."""
    observations, _ = env.reset(seed=number, options={"episode": rows * number})
    stories: list[list[str]] = [[] for _ in range(rows)]
    over = [False] * rows
    while not all(over):
        for story, text in zip(stories, observations, strict=True):
            story.extend([text] if text else [])
        observations, _, ended, cut, _ = env.step([""] * rows)
        over = [was or bool(a or b) for was, a, b in zip(over, ended, cut, strict=True)]
    return stories


def plain(options: Sequence[str]) -> Update:
    """Return updates that predict every next token of stories, with the controller alone."""
    config, agent, env = composed([*options, *ARMS["slots"], "controller.longest=512"])
    model, tokenizer = agent.controller, agent.tokenizer
    learner = config.learner
    optimizer = build_optimizer(
        model, learner.learning_rate, learner.matrix_rate, learner.weight_decay
    )

    def update(number: int) -> int:
        stories = heard(env, number, config.rows)
        tokens_BL = pad(
            [[t for line in story for t in tokenizer.encode(line)] for story in stories]
        )
        length = tokens_BL.shape[1]
        mask = torch.ones(length, length, dtype=torch.bool).tril().expand(len(tokens_BL), -1, -1)
        x_BLD = model._embed(tokens_BL)
        for block in model.blocks:
            x_BLD, _ = block(x_BLD, mask, torch.arange(length)[None], None)
        logits = model._as_logits(x_BLD[:, :-1]).flatten(0, 1)
        loss = nn.functional.cross_entropy(logits, tokens_BL[:, 1:].flatten(), ignore_index=PAD)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(model.parameters(), learner.clip)
        optimizer.step()
        return int((tokens_BL != PAD).sum())

    return update


def agent_with(name: str, options: Sequence[str], warm: int) -> Update:
    """Return updates of an agent; its store holds what it rehearses from the start."""
    longest = "controller.longest=512"
    config, agent, env = composed([*options, *ARMS[name], longest])
    if name == "mean":
        agent.working_memory = Mean(agent.working_memory.word_size, agent.working_memory.reads)
    learner = hydra.utils.instantiate(config.learner, agent, seed=0)
    learner.begin(10_000)

    def update(number: int) -> int:
        if number == warm:
            learner.begin(10_000)  # what was lived until now is rehearsed from now on
        live(agent, env, learner, task=0, seed=number, options={"episode": config.rows * number})
        learner.update()
        return 0

    return update


def operations(update: Update, number: int) -> int:
    """Return how many additions and multiplications an update takes in products."""
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        update(number)
    return int(counter.get_total_flops())


def main() -> None:
    """Time the contenders and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--width", type=int, default=64)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--warm", type=int, default=100)
    given = parser.parse_args()
    torch.set_num_threads(1)
    options = [f"controller.width={given.width}", f"controller.heads={given.heads}"]
    updates = {"plain": plain(options)}
    updates.update({name: agent_with(name, options, given.warm) for name in ARMS})
    seconds: dict[str, list[float]] = {name: [] for name in updates}
    tokens: list[int] = []
    for number in trange(given.rounds + given.warm, disable=None):
        for name, update in updates.items():
            begun = time.perf_counter()
            found = update(number)
            if number >= given.warm:
                seconds[name].append(time.perf_counter() - begun)
                tokens.extend([found] if name == "plain" else [])
    last = given.rounds + given.warm
    counted = {name: operations(update, last) for name, update in updates.items()}
    amount = statistics.median(tokens)
    print(f"width {given.width}, {amount:.0f} tokens an update, torch {torch.__version__}\n")
    titles = "tokens a second | ms an update | quartiles | times the plain cost | operations, times"
    print(f"| | {titles} |\n|{'---|' * 6}")
    for name, times in seconds.items():
        low, middle, high = statistics.quantiles(times, n=4)
        ratio = statistics.median(
            [mine / its for mine, its in zip(times, seconds["plain"], strict=True)]
        )
        print(
            f"| {name} | {amount / middle:,.0f} | {1e3 * middle:.0f} | {1e3 * low:.0f} to "
            f"{1e3 * high:.0f} | {ratio:.2f} | {counted[name] / counted['plain']:.2f} |"
        )


if __name__ == "__main__":
    main()
