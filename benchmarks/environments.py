"""Speed of the native vector environments beside `gymnasium.vector.SyncVectorEnv`.

    python benchmarks/environments.py
    python benchmarks/environments.py --ids stillknows/KeyValueRecall-v0 --rounds 9

New stories in every episode, writing them included: one step is one sentence of one row. First it
is checked that the rows of the native environment tell what plain ones tell, then the contenders
take turns, as many episodes of all rows as fill the same time; CPU clock of one thread, medians and
ranges of the rounds.
"""

import argparse
import time
from statistics import median

import gymnasium
import numpy as np
from gymnasium.vector import VectorEnv

from stillknows.envs import GENERATED, MICROWORLD

IDS = ("stillknows/KeyValueRecall-v0", *MICROWORLD, *GENERATED)


def native(id: str, rows: int) -> VectorEnv:  # type: ignore[type-arg]
    """Return the environment's own vector."""
    return gymnasium.make_vec(id, num_envs=rows, vectorization_mode="vector_entry_point")


def synchronous(id: str, rows: int) -> VectorEnv:  # type: ignore[type-arg]
    """Return plain environments in Gymnasium's `SyncVectorEnv`."""
    return gymnasium.make_vec(id, num_envs=rows, vectorization_mode="sync")


def check(id: str, rows: int = 8, seed: int = 5) -> None:
    """Compare what the rows of the native environment say with plain ones, over two episodes."""
    ours, plain = native(id, rows), [gymnasium.make(id) for _ in range(rows)]
    for start in (seed, None):
        first, _ = ours.reset(seed=start)
        heard = [[text] for text in first]
        ended = np.zeros(rows, dtype=bool)
        while not ended.all():
            texts, _, ended, _, _ = ours.step(("",) * rows)
            for row, text in zip(heard, texts, strict=True):
                row.extend([text] if text else [])
        for row, env in enumerate(plain):
            env.unwrapped.first_episode, env.unwrapped.stride = row, rows  # type: ignore[attr-defined]
            text, _ = env.reset(seed=None if start is None else start + row)
            alone, over = [text], False
            while not over:
                text, _, over, _, _ = env.step("")
                alone.append(text)
            if [text for text in alone if text] != heard[row]:
                raise SystemExit(f"{id}: row {row} tells another story than a plain environment.")


def rate(envs: VectorEnv, seconds: float) -> float:  # type: ignore[type-arg]
    """Return the steps a second of whole episodes; rows that are over do not count."""
    begin, steps, spent = time.thread_time(), 0, 0.0
    actions = ("",) * envs.num_envs
    while spent < seconds:
        envs.reset()
        ended = np.zeros(envs.num_envs, dtype=bool)
        while running := envs.num_envs - np.count_nonzero(ended):
            _, _, now, _, _ = envs.step(actions)
            steps += running
            ended |= now
        spent = time.thread_time() - begin
    return steps / spent


def main() -> None:
    """Check, measure and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ids", nargs="+", default=IDS)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=0.2, help="of a contender's turn")
    options = parser.parse_args()
    print("| environment | SyncVectorEnv, 256 | native, 256 | ratio | native, 1,024 |")
    print("| --- | --- | --- | --- | --- |")
    for id in options.ids:
        check(id)
        contenders = [synchronous(id, 256), native(id, 256), native(id, 1024)]
        for envs in contenders:
            envs.reset(seed=1)
        rounds = range(options.rounds + 1)  # the first warms up
        rates = np.array([[rate(envs, options.seconds) for envs in contenders] for _ in rounds])[1:]
        ratios = rates[:, 1] / rates[:, 0]
        cells = [f"{median(each):,.0f}" for each in rates.T]
        span = f"{median(ratios):.1f} ({min(ratios):.1f} to {max(ratios):.1f})"
        print(f"| {id} | {cells[0]} | {cells[1]} | {span} | {cells[2]} |", flush=True)


if __name__ == "__main__":
    main()
