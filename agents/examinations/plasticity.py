"""How plastic a controller still is, seen from its activations on a reference batch of sentences.

A probe reads sentences with the controller alone. It moves no weight, draws no random number, and
touches no memory. Letters: B sentences, L tokens, H hidden units, D numbers of a sentence's vector.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.episode import bracketed
from stillknows.envs.measures.floors import hear
from stillknows.envs.measures.plasticity import TAUS, dormant_share, effective_rank
from stillknows.envs.tasks import Task

_NONLINEARITIES = ("torch.nn.modules.activation", "transformers.activations")


def reference_sentences(
    tasks: Sequence[Task], seed: int, episodes: int = 4, most: int = 32
) -> list[str]:
    """Return different sentences of the examinations of all tasks, in a fixed order.

    Args:
        tasks: of the stream.
        seed: of the lifetime.
        episodes: stories heard of each task.
        most: sentences taken of each.
    """
    found: dict[str, None] = {}
    for task in tasks:
        heard = hear(task, task.exam, min(episodes, task.exam_stories or episodes), seed=seed)
        told = [line for each in heard for line in (*each.story, each.question)]
        found.update(dict.fromkeys(list(dict.fromkeys(told))[:most]))
    return list(found)


@torch.no_grad()
def probe(agent: MemoryAgent, sentences: Sequence[str]) -> dict[str, Any]:
    """Return the fields of a `plasticity` event.

    Dormant units are counted over all hidden units behind a nonlinearity of the controller, each
    compared with the mean of its layer; of a controller without such layers, over the numbers of
    the sentence's vector. The effective rank is that of the sentences' vectors.

    Args:
        agent: who is looked at.
        sentences: the reference batch.
    """
    modes = [(module, module.training) for module in agent.controller.modules()]
    agent.controller.eval()
    try:
        with _listening(agent.controller) as layers:
            read = [
                agent.controller.encode(tokens_BL)[0] for tokens_BL in _batches(agent, sentences)
            ]
    finally:
        for module, mode in modes:
            module.training = mode
    vectors_BD = _array(torch.cat(read))
    heard = [np.concatenate(parts) for parts in layers.values() if parts] or [vectors_BD]
    units = [layer_BH.shape[1] for layer_BH in heard]
    return {
        "dormant": {str(tau): _share(heard, units, tau) for tau in TAUS},
        "effective_rank": effective_rank(vectors_BD),
        "units": sum(units),
        "width": vectors_BD.shape[1],
        "sentences": len(sentences),
    }


def _share(layers: Sequence[np.ndarray], units: Sequence[int], tau: float) -> float:
    """Return the share of dormant units over all layers."""
    dormant = [dormant_share(layer_BH, tau) for layer_BH in layers]
    return float(np.average(dormant, weights=units))


def _batches(agent: MemoryAgent, sentences: Sequence[str]) -> Iterator[Tensor]:
    """Yield tokens `[B, L]` of sentences of one length, so that none is padding."""
    if agent.controller.hears_trees:
        sentences = [bracketed(sentence, "") for sentence in sentences]
    encode = agent.tokenizer.encode
    for _, group in groupby(
        sorted(sentences, key=lambda s: len(encode(s))), lambda s: len(encode(s))
    ):
        yield agent.tokenizer.batch(list(group), agent.device)


@contextmanager
def _listening(controller: nn.Module) -> Iterator[dict[str, list[np.ndarray]]]:
    """Yield what comes out of every nonlinearity while the context lasts, one input a row."""
    heard: dict[str, list[np.ndarray]] = {}
    hooks = []
    for name, module in controller.named_modules():
        if type(module).__module__ in _NONLINEARITIES and not list(module.children()):
            heard[name] = []

            def hear_layer(_: nn.Module, __: Any, out: Any, name: str = name) -> None:
                heard[name].append(_array(out.flatten(0, -2)))

            hooks.append(module.register_forward_hook(hear_layer))
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _array(tensor: Tensor) -> np.ndarray:
    return tensor.float().cpu().numpy()
