"""Avalanche's own strategies on split digits, beside ours: the same examples, batches and epochs.

    python benchmarks/avalanche_strategies.py                        # naive, joint, replay, EWC
    python benchmarks/avalanche_strategies.py --seeds 1 --strategies naive  # seconds

A multilayer perceptron (64-100-10), SGD; each example once, in batches of 4, as
`stillknows train experiment=split_digits` lives them.
"""

import argparse
import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from stillknows.envs.measures.intervals import interval
from stillknows.envs.measures.metrics import average_accuracy, forgetting

STRATEGIES = ("naive", "joint", "replay", "ewc")


def network() -> nn.Module:
    """Return a perceptron with a hidden layer."""
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 100), nn.ReLU(), nn.Linear(100, 10))


def strategy_of(name: str, memory: int, penalty: float, rate: float) -> Any:
    """Return one of Avalanche's strategies.

    Args:
        name: one of `STRATEGIES`.
        memory: examples that replay keeps.
        penalty: lambda of EWC.
        rate: of SGD.
    """
    from avalanche.evaluation.metrics import accuracy_metrics
    from avalanche.training import EWC, JointTraining, Naive, Replay
    from avalanche.training.plugins import EvaluationPlugin

    model = network()
    shared = {
        "model": model,
        "optimizer": torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9),
        "criterion": nn.CrossEntropyLoss(),
        "train_mb_size": 4,
        "train_epochs": 1,
        "eval_mb_size": 256,
        "evaluator": EvaluationPlugin(accuracy_metrics(experience=True), loggers=[]),
    }
    if name == "replay":
        return Replay(mem_size=memory, **shared)
    if name == "ewc":
        return EWC(ewc_lambda=penalty, **shared)
    return {"naive": Naive, "joint": JointTraining}[name](**shared)


def live(name: str, seed: int, options: argparse.Namespace) -> np.ndarray:
    """Return the accuracy matrix of one life, row 0 before any training."""
    from stillknows.envs.streams import split_digits_benchmark

    torch.manual_seed(seed)
    benchmark = split_digits_benchmark()
    strategy = strategy_of(name, options.memory, options.penalty, options.rate)
    trained = [benchmark.train_stream] if name == "joint" else benchmark.train_stream
    rows = [_examined(strategy, benchmark)]
    for experience in trained:
        strategy.train(experience)
        rows.append(_examined(strategy, benchmark))
    return np.array(rows)


def _examined(strategy: Any, benchmark: Any) -> list[float]:
    measured = strategy.eval(benchmark.test_stream)
    name = "Top1_Acc_Exp/eval_phase/test_stream/Exp{:03}"
    return [measured[name.format(number)] for number in range(len(benchmark.test_stream))]


def _row(name: str, matrices: Sequence[np.ndarray]) -> str:
    trained = list(range(len(matrices[0]) - 1))
    found = [f"{name:>8}"]
    for metric in (average_accuracy, forgetting):
        if name == "joint" and metric is forgetting:
            continue
        values = [metric(matrix, trained) for matrix in matrices]
        found.append(f"{metric.__name__} {interval(values)}")
    return "  ".join(found)


def main() -> None:
    """Print a row for each strategy."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--strategies", nargs="+", choices=STRATEGIES, default=STRATEGIES)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--memory", type=int, default=1198, help="examples that replay keeps")
    parser.add_argument("--penalty", type=float, default=1000.0, help="lambda of EWC")
    parser.add_argument("--rate", type=float, default=0.02, help="learning rate")
    options = parser.parse_args()
    torch.set_num_threads(1)
    for name in options.strategies:
        print(_row(name, [live(name, seed, options) for seed in range(options.seeds)]), flush=True)


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main()
