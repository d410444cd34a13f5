"""Our lives under Avalanche's metrics and loggers: figures equal ours, and lives may be cut."""

import csv
import random
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from omegaconf import DictConfig
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from stillknows.agents.configuration import compose_config
from stillknows.agents.lifetime import begun, live_lifetime
from stillknows.agents.persistence.trust import refuse_foreign
from stillknows.agents.reports import log as logs
from stillknows.agents.reports.lives import accuracy_matrix
from stillknows.envs.measures.metrics import backward_transfer, forgetting_last, forward_transfer
from stillknows.envs.text import Answer, Story, StoryTask, StoryVectorEnv

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Avalanche's imports
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
]

COLOURS, PLACES = ("red", "blue", "green", "grey"), ("north", "south", "east", "west")


class Signs(StoryTask):
    """What colours mean: in every task the same colours, and other places."""

    def __init__(self, shift: int, **settings: Any) -> None:
        super().__init__(**settings)
        self.shift = shift

    @property
    def vocabulary(self) -> tuple[str, ...]:
        return ("?", "means", "what", *COLOURS, *PLACES)

    def tell(self, key: int, episode: int, options: dict[str, Any]) -> Story:
        asked = random.Random(key).choices(range(4), k=2)
        sentences = tuple(f"what means {COLOURS[each]} ?" for each in asked)
        answers = tuple(Answer(PLACES[(each + self.shift) % 4], ()) for each in asked)
        return Story(episode, sentences, sentences, answers)


class SignsVectorEnv(StoryVectorEnv):
    """Rows of it."""

    def __init__(self, num_envs: int = 1, **settings: Any) -> None:
        super().__init__(num_envs, Signs(**settings))


EVALUATION = (
    "plugins=[{_target_: stillknows.agents.evaluation.Evaluation,"
    " metrics: [accuracy,loss,forgetting,bwt,forward_transfer,score],"
    " loggers: [text,csv,tensorboard]}]"
)


@pytest.fixture(scope="module", autouse=True)
def signs() -> Iterator[None]:
    for shift in range(3):
        gymnasium.register(
            f"Signs{shift}-v0",
            entry_point=Signs,
            vector_entry_point=SignsVectorEnv,
            kwargs={"shift": shift},
        )
    yield
    for shift in range(3):
        del gymnasium.registry[f"Signs{shift}-v0"]


def configured(*options: str) -> DictConfig:
    return compose_config(
        [
            "stream=gymnasium",
            "stream.ids=[Signs0-v0,Signs1-v0,Signs2-v0]",
            "stream.episodes=72",
            "stream.exam_episodes=9",
            "working_memory=none",
            "controller.width=16",
            "learner.warmup=1",
            "learner.learning_rate=0.03",
            "learner.matrix_rate=0",
            "rows=8",
            "arm=both",
            "episodic_memory.bytes=100000",
            "keep=false",
            *options,
        ]
    )


def live(folder: Path, *options: str, plugins: Sequence[Any] = ()) -> dict[str, Any]:
    with begun(configured(*options), folder, plugins=plugins) as (strategy, benchmark):
        strategy.live(benchmark.train_stream, benchmark.test_stream)
    measured: dict[str, Any] = strategy.measured()
    return measured


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """A life with every stock metric, its folder and the last figures."""
    folder = tmp_path_factory.mktemp("life")
    return folder, live(folder, EVALUATION)


def matrix(folder: Path) -> tuple[np.ndarray, list[logs.Event]]:
    exams = [e for e in logs.read(folder) if e.get("arm") == "agent"]
    return accuracy_matrix(exams, 3), exams


def test_stock_metrics_equal_ours(life: tuple[Path, dict[str, Any]]) -> None:
    folder, measured = life
    R, exams = matrix(folder)
    assert 0.2 < R[1, 0] != R[3, 0]  # something was learned and something lost
    stream = "eval_phase/test_stream"
    for task in range(3):
        place = f"{stream}/Task{task:03}/Exp{task:03}"
        assert measured[f"Top1_Acc_Exp/{place}"] == pytest.approx(R[3, task])
        assert measured[f"Score_Exp/{place}"] == pytest.approx(R[3, task])
        loss = next(e["loss"] for e in exams if (e["after"], e["task"]) == (3, task))
        assert measured[f"Loss_Exp/{place}"] == pytest.approx(loss)
        if task < 2:
            lost = R[task + 1, task] - R[3, task]
            for name in ("ExperienceForgetting", "ScoreForgetting_Exp"):
                assert measured[f"{name}/{place}"] == pytest.approx(lost)
            assert measured[f"ExperienceBWT/{place}"] == pytest.approx(-lost)
        if task:
            gained = R[task, task] - R[0, task]
            assert measured[f"ExperienceForwardTransfer/{place}"] == pytest.approx(gained)
    trained = [0, 1, 2]
    assert measured[f"StreamBWT/{stream}"] == pytest.approx(backward_transfer(R, trained))
    assert measured[f"StreamForgetting/{stream}"] == pytest.approx(forgetting_last(R, trained))
    assert measured[f"ScoreForgetting_Stream/{stream}"] == pytest.approx(
        forgetting_last(R, trained)
    )
    assert measured[f"Score_Stream/{stream}/Task002"] == pytest.approx(R[3].mean())
    assert measured[f"StreamForwardTransfer/{stream}"] == pytest.approx(
        forward_transfer(R, trained)
    )
    gains = [measured[f"ExperienceForwardTransfer/{stream}/Task00{j}/Exp00{j}"] for j in (1, 2)]
    assert np.mean(gains) == pytest.approx(forward_transfer(R, trained))


def test_training_is_measured_as_the_log_tells_it(life: tuple[Path, dict[str, Any]]) -> None:
    folder, measured = life
    updates = [e for e in logs.read(folder) if e["event"] == "update" and e["task"] == 2]
    accuracy = measured["Top1_Acc_Epoch/train_phase/train_stream/Task002"]
    assert accuracy == pytest.approx(np.mean([e["accuracy"] for e in updates]))
    loss = np.mean([e["loss"] + e["rehearsed_loss"] for e in updates])
    assert measured["Loss_Epoch/train_phase/train_stream/Task002"] == pytest.approx(loss, rel=1e-5)


def test_loggers_write_what_was_measured(life: tuple[Path, dict[str, Any]]) -> None:
    folder, measured = life
    R, _ = matrix(folder)
    text = (folder / "avalanche" / "log.txt").read_text()
    for name, value in measured.items():
        if value is not None and "train_phase" not in name:
            assert f"{name} = {value:.4f}" in text
    assert text.count("-- >> Start of training phase << --") == 3
    with (folder / "avalanche" / "csv" / "eval_results.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [float(row["eval_accuracy"]) for row in rows] == pytest.approx(R.ravel(), abs=1e-4)
    assert float(rows[-3]["forgetting"]) == pytest.approx(R[1, 0] - R[3, 0], abs=1e-4)
    board = EventAccumulator(str(folder / "avalanche" / "tensorboard")).Reload()
    series = board.Scalars("Top1_Acc_Exp/eval_phase/test_stream/Task001/Exp001")
    assert [event.value for event in series] == pytest.approx(R[:, 1])
    assert [event.step for event in series] == [0, 9, 18, 27]


def test_what_is_measured_changes_nothing(
    life: tuple[Path, dict[str, Any]], tmp_path: Path
) -> None:
    live(tmp_path)
    plain, told = (_told(folder) for folder in (tmp_path, life[0]))
    assert plain == told


def _told(folder: Path) -> list[Any]:
    kinds = ("update", "examination")
    return [
        {k: v for k, v in event.items() if k != "time"}
        for event in logs.read(folder)
        if event["event"] in kinds
    ]


def test_ones_own_loop_is_the_same_life(life: tuple[Path, dict[str, Any]], tmp_path: Path) -> None:
    with begun(configured(EVALUATION), tmp_path) as (strategy, benchmark):
        strategy.eval(benchmark.test_stream)
        for experience in benchmark.train_stream:
            assert strategy.train(experience)
            measured = strategy.eval(benchmark.test_stream)
    assert measured == life[1]
    whole = [e for e in _told(life[0]) if e.get("arm", "agent") == "agent"]
    assert _told(tmp_path) == whole


class Death(Exception):  # noqa: N818 (it is no error)
    """The end of a process, played in one."""


@pytest.mark.parametrize("events", [21, 31])  # in a round of examinations, and in training
def test_a_life_that_was_cut_ends_with_the_same_figures(
    life: tuple[Path, dict[str, Any]], tmp_path: Path, events: int
) -> None:
    append = logs.LifetimeLog.append

    def dying(self: logs.LifetimeLog, event: str, **fields: Any) -> logs.Event:
        record = append(self, event, **fields)
        if self._place["events"] >= events:
            raise Death
        return record

    config = configured(EVALUATION, "checkpoint.every=2", "checkpoint.seconds=0")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(logs.LifetimeLog, "append", dying)
        with pytest.raises(Death):
            live_lifetime(config, tmp_path, lambda *_: None)
    with begun(config, tmp_path, resume=True) as (strategy, benchmark):
        assert len(logs.read(tmp_path)) < events
        strategy.live(benchmark.train_stream, benchmark.test_stream)
    assert strategy.measured() == life[1]
    assert (tmp_path / "avalanche-2" / "csv" / "eval_results.csv").is_file()


def test_plugins_hear_every_event_in_the_order_of_avalanche(tmp_path: Path) -> None:
    from avalanche.core import SupervisedPlugin

    heard: list[str] = []

    class Ear(SupervisedPlugin):  # type: ignore[misc]
        def __getattribute__(self, name: str) -> Any:
            if name.startswith(("before_", "after_")):
                return lambda strategy, **_: heard.append(name)
            return super().__getattribute__(name)

    live(tmp_path, "stream.episodes=8", "checkpoint.every=0", plugins=[Ear()])
    round_of = [
        "before_eval_exp",
        *("before_eval_iteration", "before_eval_forward"),
        *("after_eval_forward", "after_eval_iteration"),
        "after_eval_exp",
    ]
    examined = ["before_eval", *round_of * 3, "after_eval"]
    trained = [
        *("before_training", "before_training_exp", "before_training_epoch"),
        *("before_training_iteration", "before_forward", "after_forward", "before_backward"),
        *("after_backward", "before_update", "after_update", "after_training_iteration"),
        *("after_training_epoch", "after_training_exp", "after_training"),
    ]
    assert heard == examined + (trained + examined) * 3


def test_mistakes_are_one_sentence(tmp_path: Path) -> None:
    from avalanche.core import SupervisedPlugin
    from avalanche.evaluation.metrics import timing_metrics
    from avalanche.logging import TextLogger
    from avalanche.training.plugins import EvaluationPlugin

    from stillknows.agents.evaluation import Evaluation, KeptEvaluation

    with pytest.raises(ValueError, match=r"no metric 'acuracy'\. Did you mean 'accuracy'"):
        Evaluation(metrics=["acuracy"])
    with pytest.raises(ValueError, match=r"no logger 'wandb'\. Known: interactive, text"):
        Evaluation(loggers=["wandb"])
    odd = EvaluationPlugin(timing_metrics(epoch=True), loggers=[TextLogger()])
    odd.metrics[0].thing = SupervisedPlugin()
    with pytest.raises(ValueError, match=r"thing holds a SupervisedPlugin.*checkpoint.every=0"):
        KeptEvaluation(odd).state()
    kept = KeptEvaluation(Evaluation(metrics=["accuracy"])).state()
    with pytest.raises(ValueError, match="state is of another metric than"):
        KeptEvaluation(Evaluation(metrics=["loss"])).restore(kept)


def test_files_of_strangers_may_name_ours_and_what_is_allowed() -> None:
    ours = {"plugins": [{"_target_": "stillknows.agents.evaluation.Evaluation"}]}
    refuse_foreign(ours, run=True)
    theirs = {"plugins": [{"_target_": "avalanche.training.plugins.EvaluationPlugin"}]}
    with pytest.raises(ValueError, match="allow its module"):
        refuse_foreign(theirs, run=True)
    refuse_foreign(theirs, allow=["avalanche"], run=True)


def test_stock_plugins_by_configuration(tmp_path: Path) -> None:
    stock = (
        "plugins=[{_target_: avalanche.training.plugins.EvaluationPlugin, collect_all: false,"
        " _args_: [[{_target_: avalanche.evaluation.metrics.StreamAccuracy}]],"
        f" loggers: [{{_target_: avalanche.logging.CSVLogger, log_folder: {tmp_path / 'csv'}}}]}}]"
    )
    measured = live(tmp_path / "life", stock, "stream.episodes=8")
    exams = [e for e in logs.read(tmp_path / "life") if e.get("arm") == "agent"]
    last = [mark for e in exams if e["after"] == 3 for mark in e["correct"]]
    assert measured == {
        "Top1_Acc_Stream/eval_phase/test_stream/Task002": pytest.approx(np.mean(last))
    }


def test_lives_of_acting_are_measured_by_their_scores(tmp_path: Path) -> None:
    config = compose_config(
        [
            "stream=control",
            "arm=none",
            "rows=4",
            "controller.width=8",
            "stream.tasks.ids=[CartPole-v1,{id: CartPole-v0, name: old}]",
            "learner.horizon=64",
            "stream.steps=1024",
            "stream.exam_episodes=3",
            EVALUATION,
        ]
    )
    live_lifetime(config, tmp_path, lambda *_: None)
    exams = [e for e in logs.read(tmp_path) if e.get("arm") == "agent"]
    R = np.zeros((3, 2))
    for event in exams:
        R[event["after"], event["task"]] = np.mean(event["scores"])
    text = (tmp_path / "avalanche" / "log.txt").read_text()
    measured = dict(re.findall(r"\t(\S+) = (\S+)", text))  # the last value of each
    for task in range(2):
        name = f"Score_Exp/eval_phase/test_stream/Task00{task}/Exp00{task}"
        assert float(measured[name]) == pytest.approx(R[2, task], abs=1e-4)
    lost = float(measured["ScoreForgetting_Stream/eval_phase/test_stream"])
    assert lost == pytest.approx(forgetting_last(R, [0, 1]), abs=1e-4)
    assert len(np.unique(R.round(4))) > 2
