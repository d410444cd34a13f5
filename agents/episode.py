"""Living a batch of episodes: the loop of observation, answer and mark.

The same loop trains and examines; who listens to the marks makes the difference.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.remembering import Marked
from stillknows.agents.thought import Thought
from stillknows.envs.tasks import TextVector
from stillknows.envs.text import asked_of, balanced_tree


class Listener(Protocol):
    """Hears what was answered and what was right.

    One that learns may have a `horizon`: after so many steps `part()` is called, and gradients go
    back no further.
    """

    def mark(self, thought: Thought, marked: Marked) -> None:
        """Take the marks of one step."""
        ...


def live(
    agent: MemoryAgent,
    envs: TextVector,
    listener: Listener,
    *,
    task: int,
    seed: int,
    options: Mapping[str, Any] | None = None,
    deaf: bool = False,
) -> int:
    """Live one episode in every row of `envs`; return how many steps that were, of all rows.

    Args:
        agent: who answers; its episodic memory changes only through the listener.
        envs: text environments side by side; all rows begin together.
        listener: a learner or an examiner.
        task: the task's place in the stream, for provenance; the agent does not see it.
        seed: of the environments' reset.
        options: of the environments' reset; `episode` numbers the rows of an environment that does
            not say which episode it tells.
        deaf: keep all but the questions from the agent.
    """
    observations, info = envs.reset(seed=seed, options=dict(options or {}))
    numbers_B = (options or {}).get("episode", 0) + np.arange(envs.num_envs)
    keys_B = torch.tensor(np.asarray(info.get("episode", numbers_B)), dtype=torch.int64)
    state = agent.initial_state(envs.num_envs, keys_B)
    ended = np.zeros(envs.num_envs, dtype=bool)
    horizon = getattr(listener, "horizon", None)
    turn = steps_lived = 0
    while not ended.all():
        steps_lived += sum(map(bool, observations))  # who waits or has ended says nothing
        asked: list[bool] = asked_of(observations, info).tolist()
        episodes = info.get("episode", numbers_B)
        steps = info.get("step", np.full(envs.num_envs, turn))
        heard = _questions(observations, asked) if deaf else observations
        if agent.controller.hears_trees:
            heard = tuple(map(bracketed, heard, info.get("tree", observations)))
        answers, state, thought = agent.step(heard, asked, state)
        observations, rewards, terminated, truncated, info = envs.step(answers)
        ended = ended | terminated | truncated
        if thought is not None:
            marked = _marked(thought, rewards, episodes, steps, info, task)
            listener.mark(thought, marked._replace(answers=tuple(answers[r] for r in thought.rows)))
        turn += 1
        if horizon and turn % horizon == 0:
            listener.part()  # type: ignore[attr-defined]
            state = state.detach()
    return steps_lived


def bracketed(sentence: str, tree: str | None) -> str:
    """Return the tree of a sentence, brackets set apart; a balanced one where there is none."""
    if not sentence:
        return ""
    tree = tree if tree and "(" in tree else balanced_tree(sentence)
    return tree.replace("(", "( ").replace(")", " )")


def _questions(observations: Sequence[str], asked: Sequence[bool]) -> tuple[str, ...]:
    return tuple(text if ask else "" for text, ask in zip(observations, asked, strict=True))


def _marked(
    thought: Thought,
    rewards: np.ndarray,
    episodes: np.ndarray,
    steps: np.ndarray,
    info: Mapping[str, Any],
    task: int,
) -> Marked:
    rows = list(thought.rows)
    if "target" not in info:
        raise ValueError(
            f"After '{thought.stories[0][-1]}' was answered, the info of its environment says no "
            "'target': what is asked has a right answer."
        )
    return Marked(
        targets=tuple(str(info["target"][row]) for row in rows),
        rewards=tuple(float(rewards[row]) for row in rows),
        carried=tuple(bool(info["carried"][row]) if "carried" in info else False for row in rows),
        episodes=tuple(int(episodes[row]) for row in rows),
        steps=tuple(int(steps[row]) for row in rows),
        task=task,
        supports=tuple(_supports(info, row) for row in rows),
        verify=tuple(info["verify"][row] for row in rows) if "verify" in info else (),
    )


def _supports(info: Mapping[str, Any], row: int) -> tuple[tuple[int, int], ...]:
    """Return what a question stands on, nothing where the environment does not say."""
    named = info["supports"][row] if "supports" in info else None
    return tuple((int(episode), int(step)) for episode, step in named or ())
