"""What the arms mean for who acts: the options of a lifelong store, as recurrent PPO takes them.

`configs/arm` names the same arms for questions and for acting. A lifelong store of any of
`configs/episodic_memory`, with any policy, holds stretches of experience here; the arms `replay`
and `clear` learn from them once more, all others clone.
"""

from collections.abc import Sequence
from typing import Any

import hydra.utils
from omegaconf import DictConfig, OmegaConf

from stillknows.agents.assembly import episodic_of
from stillknows.memory.nec import NEC

_CLEAR = "stillknows.agents.baselines.clear.CLEAR"
_KINDS = {"replay": "replay", "clear": "clear"}  # of rehearsal, by the arm


def lifelong(config: DictConfig) -> dict[str, Any]:
    """Return how a control learner remembers, in place of options that say so.

    `store_of` where there is a lifelong store; where there is none, or the learner has stores of
    its own, nothing. `rehearsal.kind` where the arm says it, and `recall` where it recalls.
    """
    own = config.learner
    if "rehearsal" not in own:
        return {}
    if not config.episodic_memory:
        return {"store_of": None, "recall": None}
    rehearsal = OmegaConf.merge(own.rehearsal, {"kind": _KINDS.get(config.arm, own.rehearsal.kind)})
    if _cloning(config) is not None:
        rehearsal = OmegaConf.merge(rehearsal, {"cloning": _cloning(config)})
    return {
        "store_of": lambda numbers: store_of(config, numbers),
        "rehearsal": rehearsal,
        "recall": own.recall if config.agent.recall else None,
    }


def store_of(config: DictConfig, numbers: int) -> NEC:
    """Return an empty store of a configuration, for vectors of so many numbers and nothing else."""
    plain = {
        "key_size": 0,
        "vector_size": numbers,
        "answer_length": 1,
        "story_shape": [0, 0],
        "identity": "none",
    }
    own: Any = OmegaConf.merge(config, {"episodic_memory": plain})
    store: NEC = episodic_of(own)
    return store


def acting_plugins(config: DictConfig) -> list[Any]:
    """Return the plugins of a life of acting: CLEAR is a way to rehearse there, and none."""
    resolved: Any = OmegaConf.to_container(config.plugins, resolve=True)
    return [each for each in resolved if each["_target_"] != _CLEAR]


def expect_experience(config: DictConfig, texts: Sequence[Any]) -> None:
    """Raise a ValueError with one sentence if a lifelong store cannot be for who acts."""
    if not config.episodic_memory:
        return
    if "rehearsal" not in config.learner:
        if texts:
            return
        raise ValueError(
            f"arm={config.arm} has a lifelong store beside the learner's own: arms=[none] with "
            "learner=nec, or learner=recurrent_ppo."
        )
    if config.learner.rehearsal is None:
        raise ValueError(
            f"arm={config.arm} rehearses, and learner.rehearsal=null does not say how: arms=[none]."
        )
    if config.episodic_memory.get("store", "tensor") != "tensor":
        raise ValueError("Experience is kept in tensors: episodic_memory.store=tensor.")
    if _cloning(config) is not None and texts:
        raise ValueError(
            f"arm=clear clones answers or actions, and {texts[0].name} is a task of questions: "
            "among both leave it away."
        )
    policy = hydra.utils.instantiate(config.episodic_policy)
    if getattr(policy, "needs_similarity", False) or getattr(policy, "needs_namesakes", False):
        raise ValueError(
            f"{type(policy).__name__} compares questions, and experience asks none: choose "
            "episodic_policy=reservoir, balanced or another rule."
        )


def _cloning(config: DictConfig) -> float | None:
    """Return the weight of CLEAR's cloning, None where it is not among the plugins."""
    found = [each for each in config.plugins if each["_target_"] == _CLEAR]
    return float(found[0]["cloning"]) if found else None
