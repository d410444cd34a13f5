"""`stillknows memory`, agents that live in databases, and deletion, looked for in raw bytes."""

import io
import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
import torch

from stillknows.agents.commands.cli import main
from stillknows.agents.commands.memory_arguments import add_parser
from stillknows.agents.configuration import compose_config
from stillknows.agents.dialogue import talk
from stillknows.agents.lifetime import live_lifetime
from stillknows.agents.persistence.container import read_tree, write_tree
from stillknows.agents.persistence.keeping import SCHEMA, load_agent
from stillknows.agents.persistence.memory_files import AGENT, memory_in
from stillknows.agents.persistence.memory_places import FILE, memory_at
from stillknows.agents.reports import log
from stillknows.memory.nec import NEC
from stillknows.memory.stores.sqlite import SQLite

TINY = ("debug=tiny", "stream.episodes=16", "stream.exam_episodes=8", "seed=3")
TINY += ("stream.tasks.tasks=[where_person]",)
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}")
    for kind in ("DeprecationWarning", "UserWarning", "FutureWarning", "SyntaxWarning")
]


def live(folder: Path, *options: str) -> Path:
    live_lifetime(compose_config([*TINY, *options]), folder, lambda *_: None)
    return folder


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A life with its memory in SQLite; not to be changed."""
    return live(tmp_path_factory.mktemp("run") / "both-seed3", "episodic_memory.store=sqlite")


@pytest.fixture
def life(lived: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(lived, tmp_path / "run" / lived.name))


def events(folder: Path) -> list[dict[str, object]]:
    """Return a log without times and without the option that differs."""
    found = [event for event in log.read(folder) if event["event"] != "clock"]
    for event in found:
        event.pop("time")
        if "config" in event:
            event["config"]["episodic_memory"].pop("store")
            event["config"]["episodic_memory"].pop("place")
    return found


def same(first: NEC, second: NEC) -> None:
    one, other = first.snapshot(), second.snapshot()
    for name, column in one.pop("columns").items():
        assert torch.equal(column, other["columns"][name]), name
    assert one == {name: other[name] for name in one}


def test_a_life_is_the_same_wherever_its_memory_is_kept(lived: Path, tmp_path: Path) -> None:
    plain = live(tmp_path / "plain")
    assert events(plain) == events(lived)
    with memory_at(str(lived / FILE), read_only=True) as memory:
        same(memory, memory_in(plain / AGENT))
        same(memory, memory_in(lived / AGENT))
    assert not (plain / FILE).exists()


def test_a_life_is_the_same_on_a_server(lived: Path, tmp_path: Path, postgres: None) -> None:
    shared = live(tmp_path / "run" / "shared", "episodic_memory.store=postgres")
    assert events(shared) == events(lived)
    with memory_at("postgres:run-shared", read_only=True) as memory:
        same(memory, memory_in(shared / AGENT))
    with pytest.raises(ValueError, match="holds a memory already"):
        live(tmp_path / "else" / "run" / "shared", "episodic_memory.store=postgres")


def test_listing_tells_where_entries_came_from(
    lived: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["memory", "ls", str(lived)]) == 0
    lines = capsys.readouterr().out.splitlines()
    with memory_at(str(lived / FILE), read_only=True) as memory:
        held = sorted(zip(*(memory.provenance(n).tolist() for n in ("id", "episode")), strict=True))
        kept = [each for each in held if each[0] >= 0]
    assert [tuple(map(int, line.split()[0:3:2])) for line in lines[1:-1]] == kept
    assert all("where" in line for line in lines[1:-1])
    assert main(["memory", "ls", str(lived / AGENT), "--episode", "3", "--task", "0"]) == 0
    few = capsys.readouterr().out.splitlines()
    assert [int(line.split()[0]) for line in few[1:-1]] == [
        e for e, episode in kept if episode == 3
    ]
    assert main(["memory", "show", str(lived), str(kept[0][0])]) == 0
    told = capsys.readouterr().out
    assert f"from task 0, episode {kept[0][1]}, step" in told
    assert "heard: " in told
    assert main(["memory", "show", str(lived), "9999"]) == 2
    assert "holds no entry 9999" in capsys.readouterr().err


def test_lines_come_back_to_the_bit(
    life: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = tmp_path / "memory.jsonl"
    assert main(["memory", "export", str(life)]) == 0
    lines.write_text(capsys.readouterr().out)
    with memory_at(str(life / FILE)) as memory:
        copy = memory.fork()
        gone = memory.provenance("id")[:3].tolist()
        memory.delete(gone)
    assert main(["memory", "import", str(life), str(lines)]) == 0
    assert capsys.readouterr().out.startswith("3 added")
    with memory_at(str(life / FILE), read_only=True) as memory:
        for name in ("keys_ND", "vectors_NV", "answers_NA", "story_NTL", "uses_N"):
            assert torch.equal(memory.columns[name], copy.columns[name]), name
    assert main(["memory", "diff", str(life), str(life / AGENT)]) == 0
    assert capsys.readouterr().out.splitlines() == [f"{len(copy)} entries are in both."]


def test_lines_become_a_memory_where_there_is_none(
    life: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines, new = tmp_path / "memory.jsonl", tmp_path / "new.sqlite"
    assert main(["memory", "export", str(life)]) == 0
    lines.write_text(capsys.readouterr().out)
    assert main(["memory", "import", str(new), str(lines)]) == 0
    assert "which is new" in capsys.readouterr().out
    assert main(["memory", "diff", str(life), str(new)]) == 0
    (said,) = capsys.readouterr().out.splitlines()
    assert said.endswith("entries are in both.")
    with memory_at(str(new), read_only=True) as memory, memory_at(str(life / FILE)) as other:
        assert said == f"{len(memory)} entries are in both."
        assert len(memory) == len(other)


def test_a_difference_names_what_came_and_what_went(
    life: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with memory_at(str(life / FILE), read_only=True) as memory:
        now, then = (set(each.provenance("id").tolist()) for each in (memory, memory.at(2)))
    assert main(["memory", "diff", f"{life}@2", str(life)]) == 0
    *lines, _ = capsys.readouterr().out.splitlines()
    came = {int(line.split()[1]) for line in lines if line[0] == "+"}
    went = {int(line.split()[1]) for line in lines if line[0] == "-"}
    assert now - then <= came  # those that were renewed are in both
    assert came - (now - then) == went - (then - now)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda lines: ["nonsense"], "line 1 is no JSON object"),
        (lambda lines: [json.dumps({"schema": "other"})], "it is no exported memory"),
        (lambda lines: [lines[0].replace('"capacity": ', '"capacity": 99999')], "than this"),
        (lambda lines: [lines[0].replace('"key_size": 16', '"key_size": -16')], "is broken"),
        (
            lambda lines: [*lines[:2], lines[2].replace('"key": [', '"key": [NaN, ')],
            "line 3 is bro",
        ),
        (lambda lines: [*lines[:2], "{}"], "line 3 is broken"),
        (lambda lines: [re.sub('y_size": 16(.*)entries', r'y_size": 8\1all', lines[0])], "alike"),
        (lambda lines: lines[:-1], "it was cut; export it again"),
    ],
)
def test_lines_that_are_broken_are_one_sentence(
    change, words: str, life: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["memory", "export", str(life)])
    whole = capsys.readouterr().out.splitlines()
    (tmp_path / "x.jsonl").write_text("\n".join(change(whole)))
    assert main(["memory", "import", str(life), str(tmp_path / "x.jsonl")]) == 2
    error = capsys.readouterr().err
    assert words in error
    assert len(error.splitlines()) == 1


def pieces(memory: NEC, slot: int) -> dict[str, bytes]:
    """Return bytes that stand for an entry and for no other: of its text and of its vectors."""
    story = memory.columns["story_NTL"][slot].numpy().tobytes().rstrip(b"\0")
    vector = memory.columns["vectors_NV"][slot].numpy().tobytes()
    return {"story": story[-40:], "vector": vector[8:32]}


def found(folder: Path, content: bytes) -> list[str]:
    """Return the files in or below a folder that hold some bytes."""
    return [
        file.name for file in folder.rglob("*") if file.is_file() and content in file.read_bytes()
    ]


def test_what_is_deleted_is_in_no_byte_of_the_folder(
    life: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with memory_at(str(life / FILE)) as memory:
        tails = [pieces(memory, slot)["story"] for slot in range(memory.size)]
        stories = [memory.columns["story_NTL"][s].numpy().tobytes() for s in range(memory.size)]
        alone = (s for s, tail in enumerate(tails) if sum(tail in one for one in stories) == 1)
        slot = next(s for s in alone if 2 < s < memory.size - 1)
        entry = int(memory.provenance("id")[slot])
        content = pieces(memory, slot)
        memory.fork(SQLite(life / "fork.sqlite")).store.close()
        tree = {"deep": [{"memory": memory.snapshot()}]}
        write_tree(life / "checkpoints" / "7.safetensors", tree, "stillknows test 1")
        kept = {file.name for file in life.glob("checkpoints/*.safetensors")}
        neighbours = {other: pieces(memory, other)["vector"] for other in (slot - 1, slot + 1)}
    (life / "checkpoints" / "6.safetensors.broken").write_bytes(b"half")
    everywhere = {AGENT, FILE, "fork.sqlite", "7.safetensors"}
    assert kept > {"7.safetensors", "best.safetensors"}  # those of the life itself
    for name, part in content.items():
        assert everywhere <= set(found(life, part)), name

    assert main(["memory", "delete", str(life), "--entry", str(entry)]) == 0
    said = capsys.readouterr().out
    assert f"Deleted: 1 entries ({entry})" in said
    assert "weights" in said
    assert all(name in said for name in everywhere)
    assert "6.safetensors.broken" in said.partition("remove:")[2]
    for name, part in content.items():
        assert found(life, part) == [], name
    for part in neighbours.values():  # the others are as they were
        assert everywhere <= set(found(life, part))
    assert entry not in memory_in(life / AGENT).provenance("id").tolist()
    assert load_agent(life / AGENT).episodic_memory is not None
    assert main(["memory", "ls", f"{life}@3"]) == 0
    assert f"Deleted since: {entry}." in capsys.readouterr().out
    assert main(["memory", "show", f"{life}@3", str(entry)]) == 0
    assert f"entry {entry} was deleted; nothing of it is left." in capsys.readouterr().out
    assert main(["memory", "delete", str(life), "--entry", str(entry)]) == 2
    assert "holds nothing of what is to be deleted" in capsys.readouterr().err


def test_an_episode_is_deleted_with_all_that_ever_came_from_it(
    life: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with memory_at(str(life / FILE), read_only=True) as memory:
        past = [memory.at(number) for number in range(1, memory.operation + 1)]
        wanted = {
            int(entry)
            for then in past
            for entry, episode in zip(
                then.provenance("id"), then.provenance("episode"), strict=True
            )
            if episode == 3
        }
        contents = [
            pieces(then, slot)["vector"]
            for then in past
            for slot in (then.provenance("episode") == 3).nonzero()[:, 0].tolist()
        ]
    assert wanted
    assert all(found(life, content) for content in contents)
    assert main(["memory", "delete", str(life), "--episode", "3", "--task", "0"]) == 0
    capsys.readouterr()
    assert not any(found(life, content) for content in contents)
    with memory_at(str(life / FILE), read_only=True) as memory:
        assert set(memory.store.gaps(memory.operation - 1)) <= wanted
        assert not set(memory.provenance("id").tolist()) & wanted
    config = read_tree(life / AGENT, SCHEMA)["config"]
    assert config["episodic_memory"]["store"] == "sqlite"


def test_what_only_a_checkpoint_holds_since_the_past_is_bounded_is_deleted_too(
    life: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with memory_at(str(life / FILE)) as memory:
        then = memory.at(2)
        memory.delete(memory.provenance("id")[:1].tolist())
        leaving = {*then.provenance("id").tolist()} - {*memory.provenance("id").tolist()}
        entry = min(leaving - {-1})
        slot = then.provenance("id").tolist().index(entry)
        episode, task = (int(then.provenance(name)[slot]) for name in ("episode", "task"))
        write_tree(life / "checkpoints" / "1.safetensors", then.snapshot(), "stillknows test 1")
        store = memory.store
        assert isinstance(store, SQLite)
        store.reach(1)
        memory.delete(memory.provenance("id")[1:2].tolist())
        assert store.first > 2
        assert entry not in store.ids_of(task, episode)
        assert store.names_of([entry]) == []
    content = pieces(then, slot)["vector"]
    assert FILE not in found(life, content)
    assert "1.safetensors" in found(life, content)
    with (
        pytest.raises(ValueError, match="past back to operation"),
        memory_at(str(life / FILE)) as memory,
    ):
        memory.at(2)
    wanted = ["--episode", str(episode), "--task", str(task)]
    assert main(["memory", "delete", str(life), *wanted]) == 0
    assert str(entry) in capsys.readouterr().out
    assert found(life, content) == []


def test_a_dialogue_lives_on_in_a_database(life: Path, tmp_path: Path) -> None:
    place, agent = str(tmp_path / "life.sqlite"), life / AGENT
    before = agent.read_bytes()
    said = io.StringIO()
    lines = ("Sandra went to the garden.", "Where is Sandra?", "=garden")
    talk(agent, lines, said, place)
    with memory_at(place, read_only=True) as memory:
        first = memory.seen
        assert first == memory_in(agent).seen + 1
    talk(agent, lines, said, place)
    with memory_at(place, read_only=True) as memory:
        assert memory.seen == first + 1
    assert agent.read_bytes() == before


def test_a_life_without_a_checkpoint_begins_anew_where_it_may(tmp_path: Path) -> None:
    none = ["episodic_memory.store=sqlite", "checkpoint.every=0"]
    life = live(tmp_path / "life", *none)
    with memory_at(str(life / FILE), read_only=True) as memory:
        before = memory.fork()
    begun = (life / log.FILE).read_bytes().splitlines(keepends=True)[0]
    for folder in (life, tmp_path / "other"):
        folder.mkdir(exist_ok=True)
        (folder / log.FILE).write_bytes(begun)
    live_lifetime(compose_config([*TINY, *none]), life, lambda *_: None, resume=True)
    with memory_at(str(life / FILE), read_only=True) as memory:
        same(memory, before)
        assert memory.operation == before.operation
    chosen = compose_config([*TINY, *none, f"episodic_memory.place={life / FILE}"])
    with pytest.raises(ValueError, match="left no checkpoint to go back to"):
        live_lifetime(chosen, tmp_path / "other", lambda *_: None, resume=True)
    with memory_at(str(life / FILE), read_only=True) as memory:
        same(memory, before)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["episodic_memory.store=redis"], "choose one of tensor, sqlite, postgres"),
        (["episodic_memory.place=x.sqlite"], "where nothing is kept"),
        (["episodic_memory.past=0"], "should be a whole number of operations from 1"),
    ],
)
def test_options_that_do_not_fit_are_one_sentence(
    options: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = f"run={tmp_path / 'run'}"
    assert main(["train", "debug=tiny", "arms=[both]", run, *options]) == 2
    assert words in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_without_or_with_several_memories_says_so(
    life: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["memory", "ls", str(tmp_path / "nowhere.sqlite")]) == 2
    assert "There is no memory" in capsys.readouterr().err
    (tmp_path / "empty").mkdir()
    assert main(["memory", "ls", str(tmp_path / "empty")]) == 2
    assert "holds none" in capsys.readouterr().err
    shutil.copytree(life, life.parent / "both-seed4")
    assert main(["memory", "ls", str(life.parent)]) == 2
    assert "several memories: name one of" in capsys.readouterr().err
    assert main(["memory", "delete", str(life)]) == 2
    assert "Nothing is named" in capsys.readouterr().err


def test_a_memory_whose_description_was_changed_is_refused_in_a_sentence(
    life: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for value in ("[]", "[4]", "[4, 12, 1]", '"x"', "[-1, 2]"):
        with closing(sqlite3.connect(life / FILE)) as connection, connection:
            connection.execute(
                "UPDATE description SET value = ? WHERE name = 'story_shape'", [value]
            )
        assert main(["memory", "ls", str(life)]) == 2
        said = capsys.readouterr().err
        assert "is broken: its description does not fit its seal" in said
        assert said.count("\n") == 1


def test_the_arguments_know_who_may_stay() -> None:
    import argparse

    from stillknows.memory.stores.merging import KEEP

    parser = argparse.ArgumentParser()
    add_parser(parser.add_subparsers())
    for keep in KEEP:
        assert parser.parse_args(["memory", "import", "x", "-", "--keep", keep]).keep == keep


def test_check_looks_at_a_memory_in_sqlite(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["check", "debug=tiny", "episodic_memory=nec", "episodic_memory.store=sqlite"]
    assert main([*arguments, "episodic_memory.bytes=20000", "--steps", "20"]) == 0
    assert "episodic_memory: snapshot passed" in capsys.readouterr().out
