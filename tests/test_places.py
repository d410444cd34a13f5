"""Lives and the places of their memories: whose is left alone, and who may go on with it."""

from pathlib import Path

import pytest
from candidates import rows

from stillknows.agents.commands.cli import main
from stillknows.agents.configuration import compose_config
from stillknows.agents.lifetime import live_lifetime
from stillknows.agents.persistence.container import write_tree
from stillknows.agents.persistence.memory_files import AGENT
from stillknows.agents.persistence.memory_places import FILE, begin_anew, kept_memory, memory_at
from stillknows.memory.nec import NEC
from stillknows.memory.policies.rules import EvictOldest
from stillknows.memory.stores.sqlite import SQLite

SMALL = ("debug=tiny", "stream.episodes=16", "stream.exam_episodes=8", "seed=3")
SMALL += ("stream.tasks.tasks=[where_person]", "episodic_memory.store=sqlite")
pytestmark = [
    pytest.mark.filterwarnings(f"ignore::{kind}")
    for kind in ("DeprecationWarning", "UserWarning", "FutureWarning", "SyntaxWarning")
]


def of_another(place: Path) -> bytes:
    """Make a memory of somebody else's, and return its bytes."""
    memory = NEC(8, 4, 3, EvictOldest(), answer_length=1, story_shape=(2, 3))
    memory.keep_in(SQLite(place))
    memory.remember(rows((0, 5), (1, 5)))
    memory.store.close()
    return place.read_bytes()


def test_a_life_that_begins_leaves_a_memory_of_its_name_as_it_is(tmp_path: Path) -> None:
    """As on a server, where runs of the same name meet."""
    config = compose_config([*SMALL])
    live_lifetime(config, tmp_path / "first", lambda *_: None)
    before = (tmp_path / "first" / FILE).read_bytes()
    (tmp_path / "second").mkdir()
    (tmp_path / "second" / FILE).write_bytes(before)
    with pytest.raises(ValueError, match="holds a memory already and is left as it is"):
        live_lifetime(config, tmp_path / "second", lambda *_: None, resume=True)
    assert (tmp_path / "second" / FILE).read_bytes() == before


def test_a_life_goes_on_with_the_memory_at_a_place_of_its_own(tmp_path: Path) -> None:
    place = tmp_path / "own.sqlite"
    config = compose_config([*SMALL, f"episodic_memory.place={place}"])
    seen = []
    for name in ("first", "second"):
        live_lifetime(config, tmp_path / name, lambda *_: None, resume=True)
        with memory_at(str(place), read_only=True) as memory:
            seen.append((memory.seen, memory.operation))
    assert seen[1][0] == 2 * seen[0][0]
    assert seen[1][1] > seen[0][1]


def test_what_is_refused_keeps_its_past_as_long_as_it_was(tmp_path: Path) -> None:
    before = of_another(tmp_path / FILE)
    config = compose_config([*SMALL])
    memory = NEC(8, 4, 3, EvictOldest(), answer_length=1, story_shape=(2, 3))
    with (
        pytest.raises(ValueError, match="holds a memory already"),
        kept_memory(memory, config, tmp_path),
    ):
        pass
    assert (tmp_path / FILE).read_bytes() == before


def test_who_was_cut_in_a_shared_memory_takes_nothing_from_the_others(tmp_path: Path) -> None:
    of_another(tmp_path / "shared.sqlite")
    config = compose_config([*SMALL, f"episodic_memory.place={tmp_path / 'shared.sqlite'}"])
    with memory_at(str(tmp_path / "shared.sqlite")) as memory:
        with pytest.raises(ValueError, match="left no checkpoint to go back to"):
            begin_anew(memory, config)
        memory.store.shared = True
        begin_anew(memory, config)
        assert (len(memory), memory.operation) == (2, 1)


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_several_lives_in_one_file_are_refused_before_any_is_lived(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    place, run = tmp_path / "one.sqlite", tmp_path / "run"
    options = [each for each in SMALL if not each.startswith("seed=")]
    options += ["arms=[both]", "seeds=[0,1]", f"run={run}", f"episodic_memory.place={place}"]
    assert main([command, *options]) == 2
    assert "would hold the memories of 2 lives" in capsys.readouterr().err
    assert not place.exists()
    assert not run.exists()


def test_a_kept_agent_has_no_past_and_says_where_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    memory = NEC(8, 4, 3, EvictOldest(), answer_length=1, story_shape=(2, 3))
    memory.remember(rows((0, 5)))
    agent, file = tmp_path / AGENT, tmp_path / FILE
    write_tree(agent, {"memory": memory.snapshot()}, "stillknows test 1")
    for named in (f"{agent}@0", f"{agent}@1", f"{tmp_path}@0"):
        assert main(["memory", "ls", named]) == 2
        assert f"leave {named[-2:]} away, or live with" in capsys.readouterr().err
    of_another(file)
    assert main(["memory", "ls", f"{agent}@0"]) == 2
    assert f"without its past, which is in {file}@0." in capsys.readouterr().err
    agent.unlink()
    assert main(["memory", "ls", f"{file}@0"]) == 0
    assert "0 of 0 entries" in capsys.readouterr().out
