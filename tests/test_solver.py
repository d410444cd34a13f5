"""Solvers of algorithmic tasks: losses, lessons, examinations, and the command."""

import json
import shutil
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillknows.agents.commands import solve
from stillknows.agents.commands.cli import main
from stillknows.agents.commands.solve import SCHEMA, build
from stillknows.agents.configuration import compose_config
from stillknows.agents.optimizer import build_optimizer
from stillknows.agents.persistence.container import read_tree
from stillknows.agents.persistence.stopping import Stop
from stillknows.agents.solver import Curriculum, Learning, Solver, examine, learn
from stillknows.envs.algorithmic import make_problem
from stillknows.envs.problems import Copy
from stillknows.memory.dnc import DNC
from stillknows.memory.ntm import NTM

ROOT = Path(__file__).parents[1]
COMMANDS = {
    path.stem: "solve" if "command: solve" in path.read_text() else "train"
    for path in (ROOT / "configs" / "experiment").glob("*.yaml")
}


def solver_of(problem, seed=0, **dials):
    torch.manual_seed(seed)
    return Solver(DNC(problem.input_size, 4, 6, 1, hidden_size=16, **dials), problem)


def test_the_loss_of_bits_and_of_groups_is_the_cross_entropy():
    logits = torch.randn(7, 90, dtype=torch.float64)
    bits = torch.randint(2, (7, 90)).double()
    shown = logits.numpy()
    right = bits.numpy() * np.log1p(np.exp(-shown)) + (1 - bits.numpy()) * np.log1p(np.exp(shown))
    solver = solver_of(Copy(bits=90))
    assert solver.loss(logits, bits).item() == pytest.approx(right.mean(), abs=1e-12)
    assert (solver.answers(logits).numpy() == (shown > 0)).all()

    digits = np.random.default_rng(0).integers(10, size=(7, 9))
    one_hot = torch.from_numpy(np.eye(10)[digits].reshape(7, 90))
    solver = solver_of(make_problem("graph_traversal"))
    groups = shown.reshape(7, 9, 10)
    log_p = groups - np.log(np.exp(groups).sum(axis=2, keepdims=True))
    expected = -np.take_along_axis(log_p, digits[..., None], axis=2).mean()
    assert solver.loss(logits, one_hot).item() == pytest.approx(expected, abs=1e-12)
    answers = solver.answers(logits).numpy().reshape(7, 9, 10)
    assert (answers.argmax(axis=2) == groups.argmax(axis=2)).all()
    assert (answers.sum(axis=2) == 1).all()


@given(st.lists(st.tuples(st.integers(0, 2), st.floats(0, 1)), max_size=60), st.floats(0.05, 0.95))
def test_the_next_lesson_begins_when_the_newest_is_known(marks, pass_mark):
    lessons = [Copy(max_length=n) for n in (1, 2, 3)]
    curriculum = Curriculum(lessons, pass_mark, earlier=0.1, seed=0)
    newest, known = 0, 0.0
    for lesson, share in marks:
        curriculum.mark(lesson, share)
        if lesson == newest:
            known = 0.95 * known + 0.05 * share
            if known >= pass_mark and newest < 2:
                newest, known = newest + 1, 0.0
        assert curriculum.newest == newest
        assert curriculum.known == pytest.approx(known, abs=1e-9)


def test_a_tenth_of_the_batches_is_of_earlier_lessons():
    curriculum = Curriculum([Copy(max_length=n) for n in (1, 2, 3)], 0.9, earlier=0.1, seed=0)
    assert {curriculum.draw(1)[0] for _ in range(50)} == {0}
    curriculum.newest = 2
    drawn = np.bincount([curriculum.draw(1)[0] for _ in range(2000)], minlength=3)
    assert abs(drawn[:2] - 100).max() < 40  # four standard deviations
    assert drawn.sum() == 2000


def test_lessons_go_on_where_they_stood():
    lessons = [Copy(bits=3, max_length=length) for length in (1, 2, 3)]
    one, other = (Curriculum(lessons, 0.01, 0.5, seed=seed) for seed in (0, 1))
    for share in (1.0, 0.1):
        one.draw(2)
        one.mark(one.newest, share)
    other.restore(one.state())
    assert (other.newest, other.known) == (one.newest, one.known) == (1, 0.05 * 0.1)
    for _ in range(5):
        (lesson, drawn), (again, redrawn) = one.draw(2), other.draw(2)
        assert lesson == again
        assert all(torch.equal(a, b) for a, b in zip(drawn, redrawn, strict=True))


@pytest.mark.parametrize("task", ["copy", "graph_traversal"])
def test_an_examination_counts_wrong_bits_and_does_not_depend_on_the_batch(task):
    dials = {"copy": {"max_length": 4}, "graph_traversal": {"max_nodes": 5, "max_steps": 2}}[task]
    problem = make_problem(task, **dials)
    solver = solver_of(problem)
    together, apart = (examine(solver, problem, 12, batch) for batch in (12, 5))
    assert together == pytest.approx(apart)
    keys = np.random.default_rng([2**63, 0]).integers(2**63, size=12)
    wrong, bits = [], 0
    for key in keys:
        inputs_TI, targets_TO, marked_T = problem.episode(int(key))
        logits = solver(torch.from_numpy(inputs_TI)[None])[0].detach().numpy()[marked_T]
        answers = logits > 0
        if problem.group_size:
            groups = logits.reshape(len(logits), -1, 10)
            answers = np.eye(10)[groups.argmax(axis=2)].reshape(logits.shape)
        wrong.append((answers != targets_TO[marked_T]).sum())
        bits += answers.size
    assert together.bits == bits / 12
    assert together.wrong_bits == pytest.approx(np.mean(wrong), abs=1e-6)
    assert together.all_right == np.mean(np.array(wrong) == 0)


def test_a_solver_learns_to_copy_lesson_by_lesson():
    lessons = [Copy(bits=3, max_length=1), Copy(bits=3, max_length=2)]
    torch.manual_seed(0)
    solver = Solver(DNC(lessons[0].input_size, 4, 8, 1, hidden_size=32), lessons[0])
    before = examine(solver, lessons[1], 60, 60)
    curriculum, told = Curriculum(lessons, 0.9, 0.1, seed=0), []
    optimizer = build_optimizer(solver, 4e-3, 0.02, 0.0)
    learn(
        Learning(solver, curriculum, optimizer, updates=250, batch=16, clip=10.0),
        hear=lambda update, report: told.append((update, report.newest)),
    )
    after = examine(solver, lessons[1], 60, 60)
    assert after.wrong_bits < 0.25 * before.wrong_bits
    assert [update for update, _ in told] == list(range(250))
    assert told[0][1] == 0
    assert told[-1][1] == 1


def test_a_gradient_that_is_no_number_moves_no_weight():
    lesson = Copy(bits=3, max_length=1)
    solver = solver_of(lesson)
    before = {name: part.clone() for name, part in solver.state_dict().items()}
    solver.head.weight.register_hook(lambda gradient: gradient * torch.nan)
    optimizer = build_optimizer(solver, 4e-3, 0.02, 0.0)
    curriculum = Curriculum([lesson], 0.9, 0.1, seed=0)
    with pytest.raises(ValueError, match="NaN or infinite, and no weight was moved by it"):
        Learning(solver, curriculum, optimizer, updates=1, batch=2, clip=10.0).update()
    assert all(torch.equal(part, before[name]) for name, part in solver.state_dict().items())


def test_where_time_is_scarce_the_rate_falls_with_it_and_learning_ends():
    lesson = Copy(bits=3, max_length=1)
    solver = Solver(DNC(lesson.input_size, 4, 8, 1, hidden_size=8), lesson)
    optimizer = build_optimizer(solver, 4e-3, 0.02, 0.0)
    shares, rates = iter([0.0, 0.25, 0.5, 0.75, 1.0]), []
    curriculum, sizes = Curriculum([lesson], 0.9, 0.1, seed=0), {"updates": 1000, "batch": 2}
    made = learn(
        Learning(solver, curriculum, optimizer, **sizes, clip=10.0, warmup=0),
        hear=lambda *_: rates.append([g["lr"] / g["highest"] for g in optimizer.param_groups]),
        spent=lambda: next(shares),
    )
    fallen = [0.1 + 0.45 * (1 + np.cos(np.pi * share)) for share in (0, 0.25, 0.5, 0.75)]
    assert made == 4
    np.testing.assert_allclose(rates, np.array(fallen)[:, None].repeat(len(rates[0]), 1), atol=1e-5)


def test_a_seed_whose_time_is_over_is_examined_all_the_same(tmp_path, capsys):
    small = ["debug=short", "working_memory.slots=4", "seeds=[0]", "workers=1"]
    run = tmp_path / "run"
    assert main(["solve", *small, "learner.minutes=1e-9", f"run={run}"]) == 0
    told = capsys.readouterr().out
    assert "| DNC | 5, 1e-09 minutes | 20 vectors | 1 | 160 |" in told
    events = [
        json.loads(line) for line in (run / "copy-seed0" / "log.jsonl").read_text().splitlines()
    ]
    assert [event["event"] for event in events] == ["solving", "marks", "marks", "clock"]
    assert events[-1]["updates"] == 0


def test_compiled_or_not_the_controller_and_the_switches_are_the_configuration_s():
    options = ["working_memory.feed_forward=true", "working_memory.hidden_size=7"]
    for name, kind in (("dnc", DNC), ("ntm", NTM)):
        solver, *_ = build(compose_config([f"working_memory={name}", *options], "solve"))
        assert type(solver.memory) is kind
        assert solver.memory.controller.output_size == 7
        assert not hasattr(solver.memory.controller, "cell")


def test_every_experiment_of_this_command_can_be_built():
    chosen = [name for name, command in COMMANDS.items() if command == "solve"]
    assert len(chosen) >= 4
    for name in chosen:
        config = compose_config([f"experiment={name}"], "solve")
        solver, lessons, exams = build(config)
        assert config.name == name
        assert exams
        logits = solver(torch.from_numpy(lessons[0].episode(0).inputs_TI)[None])
        assert logits.shape[-1] == lessons[-1].output_size


def test_the_command_writes_logs_weights_and_a_report_and_equal_seeds_are_equal(tmp_path, capsys):
    small = ["debug=short", "working_memory.slots=4", "workers=1"]
    for run in ("a", "b"):
        assert main(["solve", *small, f"run={tmp_path / run}"]) == 0
    told = capsys.readouterr().out
    assert "| DNC | 5 | 20 vectors | 2 | 160 |" in told
    assert (tmp_path / "a" / "learning.png").stat().st_size > 5000
    for seed in ("copy-seed0", "copy-seed1"):
        kinds = [event["event"] for event in expect_equal(*(tmp_path / r / seed for r in "ab"))]
        assert kinds == ["solving", *["update"] * 5, "marks", "marks", "clock"]
    report = (tmp_path / "a" / "report.md").read_text()
    assert main(["report", str(tmp_path / "a"), "--out", str(tmp_path / "again")]) == 0
    assert (tmp_path / "again" / "report.md").read_text() == report


def expect_equal(first, second):
    """Compare the weights and logs of two solvers; return the events but for their times."""
    weights = [read_tree(path / "weights.safetensors", SCHEMA) for path in (first, second)]
    assert all(torch.equal(weights[0][key], weights[1][key]) for key in weights[0])
    timed = ("time", "seconds", "config", "checksum")
    events = [
        [
            {key: value for key, value in json.loads(line).items() if key not in timed}
            for line in (path / "log.jsonl").read_text().splitlines()
        ]
        for path in (first, second)
    ]
    assert events[0] == events[1]
    return events[0]


@pytest.mark.parametrize("memory", ["dnc", "ntm"])
def test_a_solver_that_was_stopped_goes_on_bit_for_bit(memory, tmp_path, monkeypatch):
    lessons = "lessons=[{task: copy, max_length: 1}, {task: copy, max_length: 2}]"
    config = compose_config(
        [f"working_memory={memory}", "debug=short", lessons, "learner.updates=12",
         "learner.pass_mark=1e-9", "learner.earlier=0.5"], "solve",
    )  # fmt: skip
    assert solve._solve_one(config, tmp_path / "whole", 0) is None

    class Asked(Stop):
        """Is asked to stop after the seventh update."""

        heard = 0

        def check(self):
            Asked.heard += 1
            self.asked = signal.SIGTERM if Asked.heard == 7 else 0
            super().check()

    monkeypatch.setattr(solve, "Stop", Asked)
    config.checkpoint.every = 3  # the last is of the sixth update
    assert solve._solve_one(config, tmp_path / "cut", 0) == signal.SIGTERM
    assert not (tmp_path / "cut" / "weights.safetensors").exists()
    assert solve._solve_one(config, tmp_path / "cut", 0) is None
    assert Asked.heard == 7 + 6
    expect_equal(tmp_path / "whole", tmp_path / "cut")
    assert solve._solve_one(config, tmp_path / "cut", 0) is None
    assert Asked.heard == 7 + 6  # it has ended


def test_the_command_goes_on_with_a_run(tmp_path, capsys):
    small = ["debug=short", "working_memory.slots=4", "workers=1", "checkpoint.every=2"]
    run, cut = tmp_path / "run", tmp_path / "cut"
    assert main(["solve", *small, f"run={run}"]) == 0
    shutil.copytree(run, cut)
    shutil.rmtree(cut / "copy-seed1")
    (cut / "copy-seed0" / "weights.safetensors").unlink()
    older, newest = sorted((cut / "copy-seed0" / "checkpoints").iterdir())
    newest.write_bytes(newest.read_bytes()[:-1])  # broken: the one before it is used
    log = cut / "copy-seed0" / "log.jsonl"
    log.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-1]))
    assert main(["solve", f"resume={cut}", "learner.updates=9"]) == 2
    assert "a run goes on with the configuration that it has" in capsys.readouterr().err
    assert main(["train", f"resume={cut}"]) == 2
    assert f"goes on by `stillknows solve resume={cut}`" in capsys.readouterr().err
    assert main(["solve", f"resume={cut}"]) == 0
    assert list(newest.parent.glob("*.broken"))
    assert older.exists()
    assert (cut / "report.md").read_text() == (run / "report.md").read_text()
    for seed in ("copy-seed0", "copy-seed1"):
        expect_equal(run / seed, cut / seed)


def test_a_report_is_of_one_task_of_any_memories_and_of_what_has_ended(tmp_path, capsys):
    def write(name, memory, seed, ended=True):
        config = {"working_memory": {"_target_": f"x.{memory}"}, "learner": {"updates": 5}}
        events = [
            {"event": "solving", "schema": 1, "name": name, "seed": seed, "config": config},
            {"event": "update", "update": 0, "newest": 0, "known": 0.5},
            {"event": "marks", "exam": "all", "bits": 8, "wrong_bits": seed, "all_right": 0.5},
            {"event": "clock", "seconds": 1.0},
        ]
        folder = tmp_path / name / f"{memory}-{seed}"
        folder.mkdir(parents=True)
        lines = [json.dumps(event) + "\n" for event in (events if ended else events[:2])]
        (folder / "log.jsonl").write_text("".join(lines))

    for memory, seed in (("DNC", 1), ("DNC", 3), ("NTM", 5)):
        write("copy", memory, seed)
    write("copy", "NTM", 7, ended=False)
    write("other", "DNC", 0, ended=False)
    assert main(["report", str(tmp_path / "copy")]) == 0
    told = capsys.readouterr().out
    assert "| DNC | 5 | all | 2 | 8 | 2.000" in told
    assert "| NTM | 5 | all | 1 | 8 | 5.000" in told
    assert main(["report", str(tmp_path / "copy"), str(tmp_path / "other")]) == 2
    assert "The runs are of copy and other: report on one task" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "other")]) == 2
    assert "No seed of other has ended" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["solve", "experiment=cpoy"], "There is no experiment 'cpoy'. Did you mean 'copy'"),
        (["solve", "working_memory=slots"], "Slots has no recurrence of its own; choose"),
        (["solve", "working_memory=none"], "none has no recurrence of its own; choose"),
        (["solve", "experiment=babi"], "experiment=babi is for `stillknows train`, not for solve"),
        (["train", "experiment=micro"], "There is no experiment 'micro'. Did you mean"),
        (["train", "debug=tinny"], "There is no debug 'tinny'. Did you mean 'tiny'"),
        (
            ["train", "working_policy=actor", "working_policy.alike=x"],
            "working_policy.alike=x should be a number, such as 10.0",
        ),
        (["solve", "debug=tiny"], "debug=tiny is for `stillknows train`"),
        (["train", "experiment=copy"], "experiment=copy is for `stillknows solve`"),
        (["solve", "lessons=[{task: cpoy}]"], "no algorithmic task 'cpoy'. Did you mean 'copy'"),
        (["solve", "+exams.other={task: copy, bits: 3}"], "differ in inputs or outputs"),
        (["solve", "lessons=[{max_length: 3}]"], "names no task: write {task: copy"),
        (["solve", "seeds=[a]"], "should be different whole numbers from 0"),
        (["solve", "seeds=[true]"], "should be different whole numbers from 0"),
        (["solve", "learner.updates=true"], "learner.updates=True should be a whole number"),
        (["solve", "learner.minutes=true"], "learner.minutes=True should be a number above 0"),
        (["solve", "learner.clip=true"], "learner.clip=True should be a number above 0"),
        (["solve", "seeds=[1,1]"], "should be different whole numbers from 0"),
        (["solve", "checkpoint.every=-1"], "checkpoint.every=-1 should be a whole number"),
        (["solve", "resume=nowhere"], "nowhere is no run that can go on"),
        (["solve", "learner.learning_rate=-1"], "should be a number, at least 0"),
        (["solve", "lessons=[]"], "lessons=[] is empty"),
        (["solve", "seeds=3"], "seeds=3 should be a list"),
        (["solve", "learner.minutes=0"], "learner.minutes=0 should be a number above 0"),
        (["solve", "learner.minutes=x"], "learner.minutes=x should be a number above 0"),
        (["solve", "learner.clip=-1"], "learner.clip=-1 should be a number above 0"),
        (["solve", "learner.earlier=2"], "learner.earlier=2 should be a number from 0 to 1"),
        (["solve", "learner.updates=0"], "learner.updates=0 should be a whole number"),
        (["solve", "learner.bacth=3"], "Did you mean 'batch'"),
        (["solve", "device=cuda:99"], "device=cuda:99 is not there"),
        (["solve", "working_memory.slots=0"], "slots=0"),
        (["solve", "working_memory.slots=true"], "slots=True should be a whole number"),
        (["solve", "seed=5"], "seed=5 is of one solver: give seeds=[5]"),
        (["solve", "working_memory.think=3"], "give working_memory.think=0"),
        (["solve", "learner.pass_mark=2"], "pass_mark=2 should be a number from 0 to 1"),
        (["solve", "working_memory.link._target_=torch.nn.Identity"], "DNC cannot take a step"),
        (["solve", "run=."], "exists already and is left as it is"),
    ],
)
def test_mistakes_are_one_sentence(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("stillknows: ")
    assert message in told
    assert len(told.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())


def test_solvers_with_other_options_are_told_apart_and_none_counts_twice(tmp_path, capsys):
    def write(folder, seed, slots):
        learner = {"updates": 5}
        config = {"working_memory": {"_target_": "x.DNC", "slots": slots}, "learner": learner}
        events = [
            {"event": "solving", "schema": 1, "name": "copy", "seed": seed, "config": config},
            {"event": "update", "update": 0, "newest": 0, "known": 0.5},
            {"event": "marks", "exam": "all", "bits": 8, "wrong_bits": seed, "all_right": 0.5},
            {"event": "clock", "seconds": 1.0},
        ]
        (tmp_path / folder).mkdir()
        lines = [json.dumps(event) + "\n" for event in events]
        (tmp_path / folder / "log.jsonl").write_text("".join(lines))

    write("a", 1, 8)
    write("b", 1, 32)
    assert main(["report", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "| DNC (working_memory.slots=8) | 5 | all | 1 |" in told
    assert "| DNC (working_memory.slots=32) | 5 | all | 1 |" in told
    write("c", 1, 8)
    assert main(["report", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert "Two runs hold DNC (working_memory.slots=8) with seed 1: report one" in said
