"""Explanations of single answers, from a log and on demand."""

import json
import shutil
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from inquired import (
    SMALL,
    _story,
    life,  # noqa: F401
)

from stillknows.agents.commands.cli import main
from stillknows.agents.commands.explain import _stands, explain, wrong_answers
from stillknows.agents.configuration import compose_config
from stillknows.agents.examinations.anatomy import Finding, Share
from stillknows.agents.examinations.trace import HELD, UNKNOWN, Ledger, short
from stillknows.agents.persistence.keeping import load_agent
from stillknows.agents.persistence.memory_files import AGENT
from stillknows.agents.reports.log import _sealed, read
from stillknows.envs.microworld import microworld_tasks

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Avalanche's imports
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
]


# --- Explanations ------------------------------------------------------------------------------


def test_explanations_of_wrong_answers(life: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = wrong_answers(read(life))
    forgotten = sum(each.forgotten for each in wrong)
    listed = explain(life)
    assert f"{forgotten} forgotten, {len(wrong) - forgotten} never learned." in listed
    assert f"question=NUMBER (1 to {len(wrong)}) or question=TASK:EPISODE:STEP." in listed
    number = next(n for n, each in enumerate(wrong, start=1) if each.task == 1)
    each = wrong[number - 1]
    assert main(["explain", str(life), f"question={number}"]) == 0
    said = capsys.readouterr().out
    place = f"count_objects:{each.episode}:{each.step}"
    assert place in said
    assert main(["explain", str(life), f"question={place}"]) == 0
    assert capsys.readouterr().out == said
    assert (life / f"explain-{place.replace(':', '-')}.png").stat().st_size > 5000


def test_what_is_shown_is_what_was_told_and_read(life: Path) -> None:
    config = compose_config([*SMALL])
    tasks = microworld_tasks(["where_person"], **_dials(config))
    seed = (1 << 40) + config.seed * 1_000_003
    story = _story(tasks[0], seed + 2, {"lived": 16, "task_start": 0, "episode": 2})
    step, answer = next((s, a) for s, a in enumerate(story.answers) if a and not a.carried)
    said = explain(life, f"question=where_person:2:{step}")
    assert story.sentences[step] in said
    assert f"right: {answer.target}" in said
    told = [s for s in range(step) if story.answers[s] is None]
    shown = [
        next(
            line
            for line in said.splitlines()
            if f" 2:{at} " in line and story.sentences[at] in line
        )
        for at in told
    ]
    marked = [at for at, line in zip(told, shown, strict=True) if line.startswith("*")]
    assert marked == sorted(at for _, at in answer.supports)
    weights = np.array([[float(w) for w in line.split()[-4:-1]] for line in shown])
    np.testing.assert_allclose(weights.sum(axis=0), 1, atol=0.06)  # shown with two digits


def _dials(config: Any) -> dict[str, Any]:
    tasks = dict(config.stream.tasks)
    return {k: v for k, v in tasks.items() if k not in ("_target_", "tasks", "exam", "own")}


@pytest.mark.parametrize(
    ("question", "sentence"),
    [
        ("question=0", "there are"),
        ("question=9999", "there are"),
        ("question=²", "give TASK:EPISODE:STEP"),
        ("question=where_persn:1:2", "Did you mean 'where_person'"),
        ("question=where_person:1", "give TASK:EPISODE:STEP"),
        ("question=where_person:1:0", "asks no question at step 0"),
    ],
)
def test_questions_that_are_none_are_one_sentence(
    question: str, sentence: str, life: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["explain", str(life), question]) == 2
    said = capsys.readouterr().err
    assert sentence in said
    assert said.count("\n") == 1


def test_a_run_of_one_life_is_that_life_and_of_several_none(life: Path, tmp_path: Path) -> None:
    shutil.copytree(life, tmp_path / "one")
    assert explain(tmp_path) == explain(life)
    shutil.copytree(life, tmp_path / "two")
    with pytest.raises(ValueError, match=r"holds several lives: give one of them, such as .*one"):
        explain(tmp_path)


def test_what_an_answer_stands_on_is_said_where_the_environment_names_it() -> None:
    found = Finding(0, 2, False, False, ((0, 1),), HELD, Share(0.4, 0.5), True, "r")
    said = "stands on 0:1 (held); 0.40 of a read fell on it, 0.50 would be an even share; with its "
    assert _stands(found) == f"{said}supports forced into the read it is answered right"
    nameless = found._replace(supports=(), fates=UNKNOWN, mended=False, cause=UNKNOWN)
    assert _stands(nameless) == "its environment names nothing that it stands on (supports)"


def test_a_life_of_a_strangers_runs_nothing_of_theirs_unless_allowed(
    life: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(life / AGENT, tmp_path / AGENT)
    head, rest = (life / "log.jsonl").read_text().split("\n", 1)
    theirs = types.ModuleType("theirs")
    exec(
        "from stillknows.envs.microworld import microworld_tasks\ncalled = []\n"
        "def tasks(**dials): called.append(dials); return microworld_tasks(**dials)",
        vars(theirs),
    )
    monkeypatch.setitem(sys.modules, "theirs", theirs)
    event = json.loads(head)
    event["config"]["stream"]["tasks"]["_target_"] = "theirs.tasks"
    event.pop("checksum")
    line = _sealed(json.dumps(event)).decode()  # a stranger can write checksums as well
    (tmp_path / "log.jsonl").write_text(line + rest)
    with pytest.raises(ValueError, match=r"names theirs.tasks, .* allow its module \('theirs'\)"):
        explain(tmp_path)
    assert not theirs.called
    assert explain(tmp_path, allow=["theirs"]) == explain(life)
    assert len(theirs.called) == 1


def test_the_log_names_every_entry_that_the_store_holds(life: Path) -> None:
    store = load_agent(life / AGENT).episodic_memory
    assert store is not None
    ids, hashes = store.provenance("id"), store.provenance("hash")
    named = Ledger(read(life))._name
    held = {int(ids[slot]): short(int(hashes[slot])) for slot in range(len(store))}
    assert named == held
    assert len(held) > 10


def test_an_explanation_on_demand_finds_what_the_log_would_say(life: Path, tmp_path: Path) -> None:
    lines = (life / "log.jsonl").read_text().splitlines()
    kept = [line for line in lines if json.loads(line)["event"] != "anatomy"]
    (tmp_path / "log.jsonl").write_text("\n".join(kept))
    with pytest.raises(ValueError, match="keep=true"):
        explain(tmp_path)
    shutil.copy(life / AGENT, tmp_path / AGENT)
    assert explain(tmp_path) == explain(life)
