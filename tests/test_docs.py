"""The code in the README and on the pages runs as it stands."""

import argparse
import re
import sys
import types
from pathlib import Path
from typing import Any

import gymnasium
import pytest
import torch
from agents_of import warmed
from gymnasium.utils.env_checker import check_env

from stillknows.agents.assembly import build_agent
from stillknows.agents.commands.memory_arguments import add_parser
from stillknows.agents.configuration import compose_config
from stillknows.agents.examinations.anatomy import Dissector, dissect
from stillknows.agents.examinations.examine import examine
from stillknows.agents.examinations.trace import Ledger
from stillknows.envs.tasks import Task
from stillknows.memory.nec import NEC

ROOT = Path(__file__).parents[1]
TINY = ("debug=tiny", "stream.episodes=16", "stream.exam_episodes=8")


def blocks(page: str) -> str:
    text = (ROOT / page).read_text()
    return "\n".join(re.findall(r"```python\n(.*?)```", text, flags=re.S))


def module(name: str, page: str) -> types.ModuleType:
    """Make a module of a page's code."""
    made = types.ModuleType(name)
    sys.modules[name] = made
    exec(compile(blocks(page), page, "exec"), made.__dict__)
    return made


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::SyntaxWarning")
def test_the_environment_page(tmp_path: Path) -> None:
    from stillknows.agents.lifetime import live_lifetime
    from stillknows.agents.reports import log

    weather = module("weather_page", "docs/environments.md").Weather
    check_env(weather(), skip_render_check=True)
    config = compose_config(
        [*TINY[1:], "stream=gymnasium", "stream.ids=[weather_page:Weather-v0]", "rows=8"]
    )
    live_lifetime(config, tmp_path, lambda *_: None)
    last = [e for e in log.read(tmp_path) if e["event"] == "examination"][-1]
    assert len(last["correct"]) == 8
    assert gymnasium.spec("Weather-v0")


def test_the_policy_page() -> None:
    import hydra.utils

    from stillknows.agents.episode import live
    from stillknows.envs.tasks import make

    module("policy_page", "docs/policies.md")
    config = compose_config(
        [
            *TINY,
            "episodic_policy._target_=policy_page.KeepSurprising",
            "+episodic_policy.threshold=0.5",
        ]
    )
    tasks: list[Task] = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
    torch.manual_seed(0)
    agent = build_agent(config, tasks)
    learner = hydra.utils.instantiate(config.learner, agent, seed=0)
    learner.begin(1)
    live(agent, make(tasks[0], 8, tasks[0].train), learner, task=0, seed=0)
    assert {written.action for written in learner.update().written} == {1}  # all surprises


def test_the_readme() -> None:
    exec(compile(blocks("README.md"), "README.md", "exec"), {"__name__": "readme"})


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::SyntaxWarning")
def test_the_page_of_avalanche(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from stillknows.agents.reports import log

    page = module("avalanche_page", "docs/avalanche.md")
    measured = page.live(tmp_path, *TINY, "arm=none")
    exams = [e for e in log.read(tmp_path) if e["event"] == "examination" and e["after"] == 5]
    marks = [mark for event in exams for mark in event["correct"]]
    stream = measured["Top1_Acc_Stream/eval_phase/test_stream/Task004"]
    assert stream == pytest.approx(sum(marks) / len(marks))
    assert capsys.readouterr().out.count("-- >> Start of training phase << --") == 5
    assert len((tmp_path / "csv" / "eval_results.csv").read_text().splitlines()) == 1 + 6 * 5


def test_the_control_page() -> None:
    page = module("control_page", "docs/control.md")
    assert sum(page.late) / len(page.late) > 0.8


def test_the_solving_page() -> None:
    page = module("solving_page", "docs/solving.md")
    assert page.marks.wrong_bits < 0.3 * page.marks.bits
    for name in re.findall(r"^\| (`.*?`) \|", (ROOT / "docs/solving.md").read_text(), re.M):
        for experiment in re.findall(r"`(\w+)`", name):
            assert (ROOT / "configs" / "experiment" / f"{experiment}.yaml").exists(), experiment


def test_the_memory_page(capsys: pytest.CaptureFixture[str]) -> None:
    import hydra.utils

    from stillknows.agents.commands.cli import main
    from stillknows.agents.episode import live
    from stillknows.envs.tasks import make
    from stillknows.memory.checks import check_store, check_working

    text = (ROOT / "docs/memories.md").read_text()
    tables = re.split(r"^## A lifelong store$", text, flags=re.M)
    for part, checks in zip(tables, (check_working.CHECKS, check_store.CHECKS), strict=True):
        rows = part.partition("| check |")[2]
        assert re.findall(r"^\| `(\w+)` \|", rows, flags=re.M) == list(checks)

    page = module("memory_page", "docs/memories.md")
    options = re.findall(r"'(\+working_memory=.*)'", text)
    assert len(set(options)) == 1
    own = ["working_memory=none", options[0].replace("my_module", "memory_page")]
    assert main(["check", *own, "debug=tiny", "--steps", "20"]) == 0
    assert "working_memory: long passed" in capsys.readouterr().out

    gaussian = [
        "episodic_memory._target_=memory_page.Gaussian.within",
        "+episodic_memory.width=0.3",
    ]
    config = compose_config([*TINY, *own, *gaussian])
    tasks: list[Task] = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
    torch.manual_seed(0)
    agent = build_agent(config, tasks)
    learner = hydra.utils.instantiate(config.learner, agent, seed=0)
    learner.begin(1)
    live(agent, make(tasks[0], 8, tasks[0].train), learner, task=0, seed=0)
    learner.update()
    assert isinstance(agent.working_memory, page.Ring)
    assert isinstance(agent.episodic_memory, page.Gaussian)
    assert agent.episodic_memory.seen > 0


class Doors:
    """A store that has nothing but what the page of memories names."""

    def __init__(self, **options: Any) -> None:
        self._store = NEC.within(**options)
        rows = (ROOT / "docs/memories.md").read_text().partition("A store from scratch")[2]
        firsts = re.findall(r"^\| (`.*?) \|", rows.partition("| check |")[0], flags=re.M)
        self._open = set(re.findall(r"`(\w+)", " ".join(firsts)))

    def __len__(self) -> int:
        return len(self._store)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._open:
            raise AttributeError(name)
        return getattr(self._store, name)


def test_a_store_from_scratch_needs_no_more_than_the_page_says() -> None:
    own = ["episodic_memory._target_=test_docs.Doors", "learner.recall_rehearsed=true"]
    agent, tasks = warmed(compose_config([*TINY, *own]))
    assert type(agent.episodic_memory).__name__ == "Doors"
    dissector = Dissector(agent, Ledger([]))
    result = dissect(dissector, tasks[0], number=0, episodes=8, rows=8, seed=0)
    assert len(dissector.findings) == len(result.correct) - sum(result.correct)


def test_the_page_of_controllers() -> None:
    page = module("controllers_page", "docs/controllers.md")
    text = (ROOT / "docs/controllers.md").read_text()
    own = re.findall(r"'(\+controller=.*)'", text)[0].replace("my_module", "controllers_page")
    agent, tasks = warmed(compose_config([*TINY[1:], "rows=8", "~controller", own]), batches=2)
    assert isinstance(agent.controller, page.Bag)
    assert 0 < examine(agent, tasks[0], number=0, episodes=8, rows=8, seed=0).loss < 100
    assert agent.controller.gru.weight_ih_l0.grad.abs().sum() > 0
    tokens_BL = torch.tensor([[7, 8, 9]])
    vector_BD, cache = agent.controller.encode(tokens_BL)
    padded_BD, _ = agent.controller.encode(torch.nn.functional.pad(tokens_BL, (0, 2)))
    torch.testing.assert_close(vector_BD, padded_BD)
    whole, part = (  # a prefix is followed by the same, whatever comes after it
        agent.controller.answer_logits(vector_BD, tokens_BL, cache, torch.tensor([answer]))
        for answer in ([6, 5], [6])
    )
    torch.testing.assert_close(whole[:, :2], part)


def test_the_page_of_stores() -> None:
    page = module("stores_page", "docs/stores.md")
    assert page.operation == page.before.operation == 0
    assert page.merged.added == {}
    text = (ROOT / "docs/stores.md").read_text()
    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    commands = re.findall(r"^stillknows (memory .*?)(?: > .*)?$", text, flags=re.M)
    assert len({parser.parse_args(command.split()).action for command in commands}) == 6


def test_the_dialogue_page(tmp_path: Path) -> None:
    from stillknows.agents.persistence.keeping import save_agent
    from stillknows.envs.microworld import microworld_tasks

    config = compose_config(TINY)
    save_agent(
        build_agent(config, microworld_tasks(["where_person"])), tmp_path / "agent.safetensors"
    )
    page = module("dialogue_page", "docs/dialogue.md")
    for _ in range(2):
        said = page.converse(tmp_path / "agent.safetensors", tmp_path / "memory.safetensors")
        assert isinstance(said, str)
    from stillknows.agents.dialogue import Dialogue

    memory = Dialogue.load(tmp_path / "memory.safetensors").agent.episodic_memory
    assert memory is not None
    assert memory.seen == 2


def test_the_pages_of_runs_that_go_on_and_of_strangers() -> None:
    from stillknows.agents.persistence.state import restore_to, state_of

    recent = module("resuming_page", "docs/resuming.md").Recent()
    recent.losses = torch.arange(3.0)
    kept = state_of(recent)
    drawn = torch.rand(2, generator=recent.draw)
    twin = module("resuming_page", "docs/resuming.md").Recent()
    restore_to(twin, kept)
    assert torch.equal(twin.losses, recent.losses)
    assert torch.equal(torch.rand(2, generator=twin.draw), drawn)
    assert callable(module("security_page", "docs/security.md").load_theirs)
