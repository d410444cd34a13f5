"""Numbers that cannot be: one sentence, before anything is lived."""

import math
import re

import numpy as np
import pytest

from stillknows.agents.commands.train import lives_of
from stillknows.agents.configuration import compose_config
from stillknows.memory import expect

SMALL = (
    "seeds=[0]",
    "arms=[both]",
    "stream.episodes=64",
    "controller.width=16",
    "checkpoint.every=0",
)
STEPS = "learner.schedule={_target_: torch.optim.lr_scheduler.StepLR, _partial_: true}"
WAITS = STEPS.replace("StepLR", "ReduceLROnPlateau")
LOSSES = "learner.optimizer={_target_: torch.optim.LBFGS, _partial_: true}"
CONTROL = ("stream=control", "stream.tasks.ids=[CartPole-v1]", "seeds=[0]", "stream.steps=100")
MEMORIES = {
    "slots": ("slots", "hops", "heads"),
    "sparse_slots": ("slots", "nearest"),
    "memory_network": ("slots", "hops"),
    "ntm": ("slots", "word_size", "read_heads", "write_heads", "hidden_size", "shifts"),
    "dnc": ("slots", "word_size", "read_heads", "write_heads", "hidden_size"),
}
CONTROLLERS = {
    "transformer": ("layers", "heads", "longest"),
    "lstm": ("layers",),
    "transformer_xl": ("layers", "heads", "memory_length"),
    "longformer": ("layers", "heads", "reach"),
    "tree_lstm": ("arity",),
}


@pytest.mark.parametrize("wrong", [0, -1, 2.5, math.nan, math.inf, "3", None])
def test_whole_numbers(wrong: object) -> None:
    expect.whole(1, first=1, second=np.int64(7))
    with pytest.raises(ValueError, match=f"^n={wrong} should be a whole number, at least 1.$"):
        expect.whole(1, fine=3, n=wrong)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, math.nan, math.inf])
def test_numbers_of_a_range(wrong: float) -> None:
    expect.number(0, 1, first=0, second=1.0)
    expect.number(0, large=1e9)
    with pytest.raises(ValueError, match=f"^x={wrong} should be a number from 0 to 1.$"):
        expect.number(0, 1, x=wrong)


@pytest.mark.parametrize("wrong", [0, -1.0, math.nan, math.inf])
def test_numbers_above(wrong: float) -> None:
    expect.above(0, x=1e-9)
    with pytest.raises(ValueError, match=f"^x={wrong} should be a number above 0.$"):
        expect.above(0, x=wrong)


@pytest.mark.parametrize("wrong", ["0", "nan"])
@pytest.mark.parametrize(
    ("part", "chosen", "name"),
    [("working_memory", memory, name) for memory, names in MEMORIES.items() for name in names]
    + [("controller", chosen, name) for chosen, names in CONTROLLERS.items() for name in names],
)
def test_parts_refuse_sizes_that_cannot_be(part: str, chosen: str, name: str, wrong: str) -> None:
    with pytest.raises(ValueError, match=name) as told:
        lives_of([*SMALL, f"{part}={chosen}", f"{part}.{name}={wrong}"])
    assert str(told.value).startswith((f"{part}.{name}={wrong} ", f"{part}.{name}={wrong}: "))
    assert "\n" not in str(told.value)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["controller.width=0"], "width=0 should be a whole number, at least 1."),
        (["agent.answer_length=0"], "answer_length=0 should be a whole number, at least 1."),
        (["agent.retrieve=-1"], "retrieve=-1 should be a whole number, at least 0."),
        (["learner.rekey_every=0"], "rekey_every=0 should be a whole number, at least 1."),
        (["learner.horizon=0"], "horizon=0 should be a whole number, at least 1."),
        (["learner.rehearse=-1"], "rehearse=-1 should be a whole number, at least 0."),
        (["learner.clip=0"], "clip=0 should be a number above 0."),
        (["learner.fall=2"], "fall=2 should be a number from 0 to 1."),
        (["learner.weight_decay=-1"], "weight_decay=-1 should be a number, at least 0."),
        (["episodic_memory.delta=0"], "delta=0 should be a number above 0."),
        (["episodic_memory.token_bytes=3"], "token_bytes=3: choose 1, 2 or 4."),
        (["stream.exam_episodes=0"], "stream.exam_episodes=0 should be a whole number"),
        (["stream.episodes=nan"], "stream.episodes=nan: a task needs a whole number of episodes"),
        (["workers=-1"], "workers=-1 should be a whole number, at least 1."),
        (["fuse.width=8"], "fuse.width=8: the vectors that come there have 16 numbers."),
        (["episodic_memory.key_size=0"], "key_size=0: the vectors that come there have 16"),
        (["working_memory.word_size=8"], "word_size=8: the vectors that come there have 16"),
        (["working_policy.word_size=8"], "word_size=8: the vectors that come there have 16"),
        (["working_memory=dnc", "working_memory.input_size=8"], "input_size=8: the vectors"),
        (
            ["stream=avalanche"],
            "name some, +stream.tasks.benchmark._target_=… stream.tasks.count=…",
        ),
        (["stream=gymnasium"], "has no tasks: name some, stream.ids=[…]."),
        (["stream.tasks.tasks=[]"], "has no tasks: name some, stream.tasks.tasks=[…]."),
        (["=3"], "'=3' cannot be read: an option is NAME=VALUE."),
        (["exam_arms=null"], "exam_arms=null should be a list, such as exam_arms=[…]."),
        (["plugins=null"], "plugins=null should be a list, such as plugins=[…]."),
        (["plugins=[foo]"], "plugins=[foo] should be classes: plugins=[{_target_: …}]."),
        (["story_shape=16"], "story_shape=16 should be a list"),
        (["story_shape=[16,12,3]"], "story_shape=[16, 12, 3] should be two whole numbers"),
        (["working_memory.recency=1.0"], "working_memory.recency=1.0 should be a list"),
        (["working_memory.recency=[0,x,0,0]"], "recency[1]=x should be a number from -10000"),
        (["working_memory.recency=[-1e30,0,0,0]"], "recency[0]=-1e+30 should be a number from"),
        (["stream.tasks.exam=5"], "stream.tasks.exam=5 should be options by name, such as"),
        (["+stream.tasks.own.route=5"], "own.route=5 should be dials, as {sentences: 12}."),
        (["learner.rehearse=null"], "learner.rehearse=null should be a number, such as 32."),
        (["learner.schedule=foo"], "schedule=foo should be a class: schedule={_target_: …}."),
        ([STEPS], "learner.schedule cannot be made: "),
        ([WAITS], "ReduceLROnPlateau waits for a metric"),
        ([LOSSES], "LBFGS wants to compute losses again and again"),
    ],
)
def test_lives_refuse_numbers_that_cannot_be(options: list[str], sentence: str) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as told:
        lives_of([*SMALL, *options])
    assert "\n" not in str(told.value)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::SyntaxWarning")
@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["stream.order=5"], "stream.order=5 should be shuffled, endless or places"),
        (["plugins=[foo]"], "plugins=[foo] should be classes: plugins=[{_target_: …}]."),
        (["arms=[ewc]", "learner=nec"], "Avalanche's plugins need one agent with one optimiser"),
        (["arms=[ewc]", "protocol=scratch"], "EWC keeps something of earlier tasks"),
        (["arms=[both]", "learner.rehearsal=null"], "learner.rehearsal=null does not say how"),
        (["arms=['shrink_and_perturb shrink=2']"], "shrink"),
    ],
)
def test_lives_of_control_are_refused_before_anything_is_lived(
    options: list[str], sentence: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as told:
        lives_of([*CONTROL, *options])
    assert "\n" not in str(told.value)


def test_what_may_be_null_may_be_null() -> None:
    compose_config([*SMALL, "log.part=null", "episodic_memory.past=null"])
    config = compose_config([*CONTROL, "learner=nec", "learner.steps=null"])
    assert config.learner.steps is None
    assert compose_config([*CONTROL, "learner.sequence=null"]).learner.sequence is None


@pytest.mark.parametrize(
    ("learner", "option", "sentence"),
    [
        ("recurrent_ppo", "clip=0", "clip=0 should be a number above 0."),
        ("recurrent_ppo", "discount=2", "discount=2 should be a number from 0 to 1."),
        ("recurrent_ppo", "sequence=0", "sequence=0 should be a whole number, at least 1."),
        ("recurrent_ppo", "learning_rate=-1", "learning_rate=-1 should be a number, at least 0."),
        ("recurrent_ppo", "rehearsal.cloning=-1", "cloning=-1 should be a number, at least 0."),
        ("nec", "curiosity=-1", "curiosity=-1 should be a number, at least 0."),
        ("nec", "capacity=0", "capacity=0 should be a whole number, at least 1."),
        ("nec", "neighbours=0", "neighbours=0 should be a whole number, at least 1."),
        ("nec", "steps=0", "steps=0 should be a whole number, at least 1."),
        ("nec", "batch=0", "batch=0 should be a whole number, at least 1."),
        ("nec", "explore=[2,0]", "explore=2 should be a number from 0 to 1."),
        ("nec", "explore=[1,0.5,0]", "explore=[1, 0.5, 0] should be two shares"),
        ("nec", "explore=0.3", "learner.explore=0.3 should be a list"),
        ("recurrent_ppo", "clip_value=0", "clip_value=0 should be a number above 0."),
        ("recurrent_ppo", "clip_value=abc", "clip_value=abc should be a number above 0."),
        ("recurrent_ppo", "largest_divergence=-1", "divergence=-1 should be a number above 0."),
        ("nec", "horizon=0", "horizon=0 should be a whole number, at least 1."),
        ("nec", "key_size=0", "key_size=0 should be a whole number, at least 1."),
        ("nec", "curiosty=1", "Did you mean 'curiosity'?"),
    ],
)
def test_learners_of_control_refuse_numbers_that_cannot_be(
    learner: str, option: str, sentence: str
) -> None:
    with pytest.raises(ValueError, match=re.escape(sentence)) as told:
        lives_of([*CONTROL, f"learner={learner}", f"learner.{option}"])
    assert "\n" not in str(told.value)
