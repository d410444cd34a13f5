"""Agents that are kept: the file, what it refuses, and a dialogue that goes on elsewhere."""

import io
import json
import re
import subprocess
import sys
import types
from pathlib import Path

import hydra.utils
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from stillknows.agents.agent import MemoryAgent
from stillknows.agents.assembly import build_agent
from stillknows.agents.commands.cli import main
from stillknows.agents.configuration import compose_config
from stillknows.agents.controllers.tokenizer import PAD
from stillknows.agents.dialogue import Dialogue, talk
from stillknows.agents.episode import live
from stillknows.agents.lifetime import live_lifetime
from stillknows.agents.persistence.container import as_tree, read_tree, write_tree
from stillknows.agents.persistence.keeping import SCHEMA, load_agent, save_agent, write_agent
from stillknows.agents.persistence.memory_files import AGENT
from stillknows.agents.reports import log
from stillknows.envs.tasks import make

TINY = ("debug=tiny", "stream.episodes=16", "stream.exam_episodes=8")
STORY = ("John went to the garden.", "Mary took the ball.", "John moved to the kitchen.")

trees = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda below: (
        st.lists(below, max_size=3)
        | st.dictionaries(st.text(max_size=3) | st.integers(), below, max_size=3)
    ),
    max_leaves=10,
)


def kept(tmp_path: Path, *options: str) -> tuple[MemoryAgent, Path]:
    """Return an agent that has learned a little, and the file it is kept in."""
    config = compose_config([*TINY, *options])
    tasks = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
    torch.manual_seed(0)
    agent = build_agent(config, tasks)
    learner = hydra.utils.instantiate(config.learner, agent, seed=0)
    learner.begin(2)
    for batch in range(2):
        envs = make(tasks[0], 8, tasks[0].train)
        live(agent, envs, learner, task=0, seed=batch, options={"episode": 8 * batch})
        learner.update()
    path = tmp_path / "agent.safetensors"
    save_agent(agent, path)
    return agent.eval(), path


@given(trees)
def test_trees_come_back(tmp_path_factory, tree):
    path = tmp_path_factory.getbasetemp() / "tree.safetensors"
    tensors = [torch.arange(3), torch.randn(2, 2, dtype=torch.float64)]
    write_tree(path, {"tree": tree, "tensors": tensors}, "test 1")
    back = read_tree(path, "test 1")
    assert back["tree"] == tree
    assert all(torch.equal(a, b) for a, b in zip(back["tensors"], tensors, strict=True))
    assert not list(path.parent.glob("*.part"))


@pytest.mark.parametrize(
    "options",
    [
        [],
        ["controller=tree_lstm", "working_memory=dnc", "episodic_policy=utility"],
        [
            "controller=lstm",
            "working_policy=retention",
            "episodic_memory=replay",
            "agent.recall=false",
        ],
        ["working_memory=none", "episodic_memory=none", "agent.context=3"],
    ],
)
def test_a_kept_agent_answers_and_remembers_as_before(tmp_path, options):
    agent, path = kept(tmp_path, *options)
    twin = load_agent(path)
    for name, value in agent.state_dict().items():
        if isinstance(value, torch.Tensor):
            assert torch.equal(value, twin.state_dict()[name]), name
    ours, theirs = Dialogue(agent), Dialogue(twin)
    for line in STORY:
        ours.observe(line)
        theirs.observe(line)
    questions = ("Where is John?", "where is the ball ?", "where is zyx ?")
    assert [ours.answer(q) for q in questions] == [theirs.answer(q) for q in questions]
    if agent.episodic_memory is not None:
        ours.correct("kitchen")
        theirs.correct("kitchen")
        assert twin.episodic_memory is not None
        mine, other = (a.episodic_memory.snapshot() for a in (agent, twin))
        for name, column in mine.pop("columns").items():
            assert torch.equal(column, other["columns"][name]), name
        assert mine == {key: other[key] for key in mine}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::SyntaxWarning")
def test_a_lifetime_keeps_its_agent_and_says_whose_trees_it_read(tmp_path):
    tiny = [*TINY, "stream.tasks.tasks=[where_person]", "controller=tree_lstm"]
    for keep in ("true", "false"):
        config = compose_config([*tiny, f"keep={keep}"])
        live_lifetime(config, tmp_path / keep, lambda *_: None)
    store = load_agent(tmp_path / "true" / AGENT).episodic_memory
    assert store is not None
    updates = [event for event in log.read(tmp_path / "true") if event["event"] == "update"]
    assert len(store) == updates[-1]["entries"] > 0
    assert not (tmp_path / "false" / AGENT).exists()
    assert log.read(tmp_path / "true")[0]["sources"] == ["read as trees that the task gives"]


def test_a_dialogue_goes_on_where_it_stood(tmp_path):
    agent, path = kept(tmp_path)
    whole, first = Dialogue(agent), Dialogue(load_agent(path))
    for dialogue in (whole, first):
        dialogue.observe(STORY[0])
        dialogue.answer("Where is John?")
        dialogue.observe(STORY[1])
    first.save(tmp_path / "half.safetensors")
    second = Dialogue.load(tmp_path / "half.safetensors")
    for dialogue in (whole, second):
        dialogue.observe(STORY[2])
    assert whole.answer("Where is John?") == second.answer("Where is John?")
    assert whole._state.story == second._state.story
    torch.testing.assert_close(whole._state.working, second._state.working, rtol=0, atol=0)
    second.begin()
    assert second._state.story == ((),)
    assert second.episode == 1


def test_what_is_corrected_is_remembered(tmp_path):
    agent, _ = kept(tmp_path)
    dialogue = Dialogue(agent)
    with pytest.raises(ValueError, match="ask a question first"):
        dialogue.correct("garden")
    dialogue.answer("Where is John?")
    dialogue.correct("Garden")
    store = agent.episodic_memory
    assert store is not None
    newest = int(store.provenance("id").argmax())
    assert agent.tokenizer.decode(store.columns["answers_NA"][newest].tolist()) == "garden"
    story = [row for row in store.columns["story_NTL"][newest].tolist() if row[0] != PAD]
    assert agent.tokenizer.decode(story[-1]) == "where is john ?"
    dialogue.observe("Mary went to the hall.")
    dialogue.correct("Hall")  # of the question, which came before
    newest = int(store.provenance("id").argmax())
    assert agent.tokenizer.decode(store.columns["answers_NA"][newest].tolist()) == "hall"
    assert int(store.provenance("step")[newest]) == 0
    with pytest.raises(ValueError, match="holds no words"):
        dialogue.answer(" \t\x00")
    dialogue.observe(" ")


def test_an_agent_of_ones_own_lives_on_in_a_database(tmp_path):
    place = str(tmp_path / "john.sqlite")
    _, path = kept(tmp_path)
    for _ in range(2):
        dialogue = Dialogue(load_agent(path), memory=place)
        seen = dialogue.agent.episodic_memory.seen
        for line in STORY:
            dialogue.observe(line)
        dialogue.answer("Where is John?")
        dialogue.correct("kitchen")
        dialogue.agent.episodic_memory.store.close()
    assert (
        seen == load_agent(path).episodic_memory.seen + 1
    )  # the second had what the first was told
    agent = load_agent(path)
    agent.episodic_memory = None
    with pytest.raises(ValueError, match=r"without an episodic memory cannot live on in .*sqlite"):
        Dialogue(agent, memory=place)


def test_talking_line_by_line(tmp_path, capsys, monkeypatch):
    _, path = kept(tmp_path)
    said = io.StringIO()
    before = path.read_bytes()
    lines = ["= early", "John went to the garden.", "Where is John?", "= garden", "", "ok."]
    dialogue = talk(path, lines, said)
    assert len(said.getvalue().splitlines()) == 2
    assert "(Nothing was answered yet: ask a question first.)" in said.getvalue()
    assert dialogue.episode == 1
    assert path.read_bytes() == before
    monkeypatch.setattr(sys, "stdin", io.StringIO("Where is John?\n"))
    assert main(["talk", str(tmp_path / "nobody")]) == 2
    assert "There is no file" in capsys.readouterr().err


def test_another_program_reads_what_this_one_kept(tmp_path):
    agent, path = kept(tmp_path)
    code = (
        "import sys; from stillknows.agents.commands.cli import main; sys.exit(main(sys.argv[1:]))"
    )
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code, "talk", str(path)],
        input="\n".join([*STORY, "Where is John?"]),
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    dialogue = Dialogue(agent)
    for line in STORY:
        dialogue.observe(line)
    assert run.stdout.strip() == dialogue.answer("Where is John?").strip()


def test_an_agent_of_before_names_its_parts_by_where_they_were(tmp_path: Path) -> None:
    agent, path = kept(tmp_path, "working_memory=dnc", "working_policy=evict_oldest")
    now = json.dumps(agent.settings)
    agent.settings = json.loads(re.sub(r"(controllers|policies)[.]", "", now))
    assert "memory.rules.EvictOldest" in json.dumps(agent.settings)
    save_agent(agent, path)
    assert json.dumps(load_agent(path).settings) == now


# --- What is refused ---------------------------------------------------------------------------


def test_a_class_of_a_strangers_is_refused_unless_allowed(tmp_path, monkeypatch):
    agent, path = kept(tmp_path, "working_policy=evict_oldest")
    victim = tmp_path / "victim"
    for target in (
        "os.path.join",
        "stillknowsnot.Policy",
        "stillknows.agents.agent.torch.save",  # reached through a module of the project's
        "stillknows.agents.agent.torch.nn.Linear",
        "stillknows.agents.reports.log.LifetimeLog",  # makes a folder
        "stillknows.agents.persistence.container.write_tree",
    ):
        agent.settings["working_policy"] = {"_target_": target, "folder": str(victim)}
        save_agent(agent, path)
        with pytest.raises(ValueError, match=f"names {target}, which is no part of an agent"):
            load_agent(path)
    assert not victim.exists()
    with pytest.raises(ValueError, match="no part of an agent"):  # a function, even if allowed
        load_agent(path, allow=["stillknows.agents.persistence.container"])
    policy = types.ModuleType("somebodys")
    exec(
        "from stillknows.memory.policies.rules import EvictOldest\nclass Own(EvictOldest): pass",
        vars(policy),
    )
    monkeypatch.setitem(sys.modules, "somebodys", policy)
    agent.settings["working_policy"] = {"_target_": "somebodys.Own"}
    save_agent(agent, path)
    with pytest.raises(ValueError, match="allow its module"):
        load_agent(path)
    assert type(load_agent(path, allow=["somebodys"]).working_policy).__name__ == "Own"
    monkeypatch.setattr(sys, "stdin", io.StringIO("Where is John?\n"))
    assert main(["talk", str(path)]) == 2
    assert main(["talk", str(path), "--allow", "somebodys"]) == 0


@pytest.mark.parametrize(
    "told",
    [
        3,
        {},
        {"working": None, "story": [["a"]], "written": [0], "episode": 0},
        {"working": "same", "story": [["a"], ["b"]], "written": [0], "episode": 0},
        {"working": "same", "story": [[1]], "written": [0], "episode": 0},
        {"working": "same", "story": [["a"]], "written": [2], "episode": 0},
        {"working": "same", "story": [["a"]], "written": [1], "items": [[5]], "episode": 0},
        {"working": "same", "story": [["a"]], "written": ["x"], "episode": 0},
        {"working": "same", "story": [["a"]], "written": [0], "episode": "x"},
    ],
)
def test_a_dialogue_that_cannot_go_on_is_told(tmp_path, told):
    agent, _ = kept(tmp_path)
    if isinstance(told, dict) and told.get("working") == "same":
        told = {**told, "working": as_tree(agent.initial_state(1).working)}
    write_agent(agent, tmp_path / "talk.safetensors", told)
    with pytest.raises(ValueError, match="no dialogue that can go on"):
        Dialogue.load(tmp_path / "talk.safetensors")


@pytest.mark.parametrize("place", [0, 3, 9, 200])
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path, place):
    _, path = kept(tmp_path)
    content = bytearray(path.read_bytes())
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="broken"):
        load_agent(path)
    content[place] ^= 0x55  # in the header: what is flipped among the numbers is not noticed
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"broken|foreign|holds|fit") as caught:
        load_agent(path)
    assert "\n" not in str(caught.value)


def test_foreign_files_are_refused(tmp_path):
    path = tmp_path / "foreign.safetensors"
    save_file({"x": torch.zeros(2)}, path)
    with pytest.raises(ValueError, match="something foreign"):
        load_agent(path)
    for tree in ({"tensor": "9"}, {"pairs": [["config"]]}, {"pairs": [[["a"], 1]]}, {}, 3):
        save_file({"0": torch.zeros(2)}, path, {"schema": SCHEMA, "tree": json.dumps(tree)})
        with pytest.raises(ValueError, match=r"broken|no agent"):
            load_agent(path)
    with pytest.raises(TypeError, match="cannot hold a set"):
        write_tree(path, {"a": {1}}, "test 1")
    with pytest.raises(TypeError, match="cannot hold the key"):
        write_tree(path, {1.5: 1}, "test 1")


def test_an_agent_that_was_built_by_hand_says_so(tmp_path):
    config = compose_config([*TINY])
    agent = build_agent(config, [])
    agent.settings = {}
    save_agent(agent, tmp_path / "bare.safetensors")
    with pytest.raises(ValueError, match="no agent that can be built"):
        load_agent(tmp_path / "bare.safetensors")
