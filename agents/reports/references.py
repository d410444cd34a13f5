"""Metrics that compare a lifetime with a reference: joint training, and fresh agents.

Lifetimes are paired by seed and order.
"""

from collections.abc import Mapping, Sequence

import numpy as np

from stillknows.agents.reports.lives import Life, as_written
from stillknows.envs.measures.curves import area_transfer
from stillknows.envs.measures.metrics import first_segments, gain, intransigence, normalised_gain

NAN = float("nan")
NAMES = ("intransigence", "area_transfer", "scratch_gain", "scratch_gain_normalised")

Arms = Mapping[str, Sequence[Life]]


def with_references(arms: Arms) -> dict[str, list[Life]]:
    """Return the arms with the metrics `NAMES` added; NaN where there is no reference.

    The references of an arm are those of the protocols `joint` and `scratch` with the same options
    in their names, or the first of each; fresh agents are those of `NAME protocol=scratch` where
    there are any.
    """
    joint, fresh = (
        {name: lives for name, lives in arms.items() if lives[0].protocol == protocol}
        for protocol in ("joint", "scratch")
    )
    return {
        name: [
            _compared(
                life,
                _with_options_of(name, joint),
                fresh.get(f"{name} protocol=scratch", _with_options_of(name, fresh)),
            )
            for life in lives
        ]
        for name, lives in arms.items()
    }


def _with_options_of(name: str, references: Arms) -> Sequence[Life]:
    """Return the reference whose name has the options that an arm's has, or the first."""
    alike = [n for n in references if n.partition(" ")[2] == name.partition(" ")[2]]
    return references[(alike or list(references))[0]] if references else ()


def _compared(life: Life, joint: Sequence[Life], fresh: Sequence[Life]) -> Life:
    metrics = dict.fromkeys(NAMES, NAN)
    if life.protocol not in ("joint", "scratch") and len(life.matrix) == len(life.trained) + 1:
        together = next((other for other in joint if other.pair == life.pair), None)
        alone = next((other for other in fresh if other.pair == life.pair), None)
        if together is not None:
            reference = together.matrix[-1].tolist()
            metrics["intransigence"] = intransigence(life.matrix, life.trained, reference)
        if alone is not None:
            metrics |= _against_fresh(life, alone, fresh)
    return life._replace(metrics={**life.metrics, **metrics})


def _against_fresh(life: Life, alone: Life, fresh: Sequence[Life]) -> dict[str, float]:
    """Return forward transfer by area, and what the life adds to each task's own fresh agent."""
    kind = "examinations" if _known(life) and all(map(_known, fresh)) else "training"
    divisor = np.mean([as_written(other.areas[kind], other.lived) for other in fresh], axis=0)
    ours, theirs = _own_scores(life), _own_scores(alone)
    return {
        "area_transfer": area_transfer(
            life.areas[kind], alone.areas[kind], [float(divisor[place]) for place in life.lived]
        ),
        "scratch_gain": gain(ours, theirs),
        "scratch_gain_normalised": normalised_gain(ours, theirs),
    }


def _known(life: Life) -> bool:
    return not bool(np.isnan(life.areas["examinations"]).any())


def _own_scores(life: Life) -> list[float]:
    """Return the score in each task right after its training, as lived."""
    own = dict(first_segments(life.trained))
    tasks = range(len(life.tasks))
    return [float(life.matrix[own[task], task]) if task in own else NAN for task in tasks]
