"""Games of TextWorld: what is seen is recomputed from facts, played games pay what they should."""

import json
import re
import sys
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from stillknows.agents.commands.train import check_life
from stillknows.agents.configuration import compose_config
from stillknows.agents.lifetime import live_lifetime
from stillknows.agents.reports import log as logs
from stillknows.agents.reports.lives import summarise
from stillknows.agents.reports.report import write_report
from stillknows.envs.control import ControlTask, side_by_side, spaces_of
from stillknows.envs.observed import signature_of
from stillknows.envs.scene import Scene, plain
from stillknows.envs.textworld import TextWorld, game_files, textworld_tasks, write_game

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # Avalanche's and the package's
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::SyntaxWarning"),
]


class Thing(NamedTuple):
    """An argument of a fact."""

    name: str
    type: str


class Stated(NamedTuple):
    """A fact, as the package has it."""

    name: str
    arguments: tuple[Thing, ...]


def stated(text: str) -> list[Stated]:
    """Read facts as `at(P:P, hall:r)`."""
    found = re.findall(r"([a-z_]+)\(([^)]*)\)", text)
    return [
        Stated(name, tuple(Thing(*each.strip().split(":")) for each in given.split(",")))
        for name, given in found
    ]


HALL = """at(P:P, hall:r) at(box:c, hall:r) closed(box:c) in(key:k, box:c) at(table:s, hall:r)
on(pan:o, table:s) on(bag:c, table:s) open(bag:c) in(egg:f, bag:c) edible(egg:f) in(hat:o, I:I)
north_of(attic:r, hall:r) free(hall:r, attic:r) south_of(hall:r, attic:r) at(lamp:o, attic:r)
east_of(yard:r, hall:r) link(hall:r, gate:d, yard:r) locked(gate:d) match(key:k, gate:d)"""


def test_a_scene_tells_what_is_in_view_and_nothing_that_is_shut() -> None:
    scene = Scene(stated(HALL))
    assert scene.place() == (
        "you are in hall . here : closed box , table ( open bag ( edible egg ) , pan ) . "
        "exits : east ( locked gate ) , north ."
    )
    assert scene.carried() == "you carry : hat ."
    opened = Scene(stated(HALL.replace("closed(box:c)", "open(box:c)")))
    assert "open box ( key )" in opened.place()
    elsewhere = Scene(stated(HALL.replace("at(P:P, hall:r)", "at(P:P, attic:r)")))
    assert elsewhere.place() == "you are in attic . here : lamp . exits : south ."
    bare = Scene(stated("at(P:P, cell:r)"))
    assert bare.place() == "you are in cell . here : nothing . exits : none ."
    assert bare.carried() == "you carry : nothing ."


def test_the_order_of_facts_tells_nothing() -> None:
    facts = stated(HALL)
    for seed in range(5):
        mixed = [facts[n] for n in np.random.default_rng(seed).permutation(len(facts))]
        assert Scene(mixed).place() == Scene(facts).place()


def test_texts_are_plain_words() -> None:
    assert plain("Put the Café's key\n(half-open) in it!") == (
        "put the cafe's key ( half-open ) in it !"
    )


def test_files_that_are_no_games_are_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    (tmp_path / "tale.z8").write_bytes(b"z")
    wrong: list[tuple[Any, str]] = [
        (str(tmp_path / "gone.json"), "There is no game .*gone.json"),
        (str(tmp_path / "none"), "holds no game"),
        (str(tmp_path / "tale.z8"), "is not in JSON"),
        ([], "No games are named"),
    ]
    for games, says in wrong:
        with pytest.raises(ValueError, match=says):
            game_files(games)
    for dials, says in (
        ({"seed": -1}, "seed=-1 of a game: give a whole number from 0 on"),
        ({"seed": 0, "rooms": 0}, "rooms=0 of a game: give a whole number from 1 on"),
        ({"seed": 0, "objects": 1.5}, r"objects=1\.5 of a game"),
    ):
        with pytest.raises(ValueError, match=says):
            write_game(tmp_path, **dials)  # type: ignore[arg-type]
    for entry, says in (
        ({"rooms": 2}, "needs games"),
        ({"seed": 1, "games": "x"}, "needs games"),
        ({"games": "x", "rooms": 2}, "needs games"),
        ({"seed": 1, "room": 2}, "no room. Did you mean 'rooms'"),
    ):
        with pytest.raises(ValueError, match=says):
            textworld_tasks([entry], str(tmp_path))


def test_without_the_package_its_name_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "textworld", None)
    (tmp_path / "game.json").write_text("{}")
    with pytest.raises(ValueError, match=r"pip install 'stillknows\[textworld\]'"):
        TextWorld(str(tmp_path / "game.json"))
    with pytest.raises(ValueError, match=r"need textworld"):
        write_game(tmp_path, seed=0)


@pytest.fixture(scope="module")
def games(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of two small games, the second with two quests."""
    pytest.importorskip("textworld", reason="needs the extra `textworld`")
    folder = tmp_path_factory.mktemp("games")
    write_game(folder, seed=1, rooms=2, objects=3, quest_length=2)
    write_game(folder, seed=2, rooms=2, objects=3, quests=2, quest_length=2)
    return folder


def walkthrough(file: Path) -> list[str]:
    """Return the commands that win a game, as its own file says."""
    found: list[str] = json.loads(file.read_text())["metadata"]["walkthrough"]
    return found


def test_generated_games_are_fixed_by_their_dials(games: Path, tmp_path: Path) -> None:
    first = sorted(games.glob("*.json"))[0]
    again = write_game(tmp_path, seed=1, rooms=2, objects=3, quest_length=2)
    assert again.name == first.name
    assert json.loads(again.read_text()) == json.loads(first.read_text())
    written = again.stat().st_mtime_ns
    assert write_game(tmp_path, seed=1, rooms=2, objects=3, quest_length=2) == again
    assert again.stat().st_mtime_ns == written
    assert [file.name for file in tmp_path.iterdir()] == [again.name]
    data = json.loads(first.read_text())
    rooms = {f["arguments"][1]["name"] for f in data["world"] if f["name"] == "at"}
    assert len(rooms) <= 2
    assert len(walkthrough(first)) == 2


def test_the_walkthrough_of_a_game_wins_it(games: Path) -> None:
    for file in sorted(games.glob("*.json")):
        env = TextWorld(str(file))
        env.reset(seed=0)
        quests = len(json.loads(file.read_text())["quests"])
        paid, over = [], False
        for command in walkthrough(file):
            assert not over
            _, reward, over, cut, info = env.step(env.commands.index(command))
            assert info["command"] == command
            assert not cut
            paid.append(reward)
        assert (sum(paid), over, info["success"]) == (1.0, True, True)
        assert [pay for pay in paid if pay] == [1 / quests] * quests
        with pytest.raises(gymnasium.error.ResetNeeded):
            env.step(0)


def test_an_action_gives_its_command_or_the_next_that_is_admissible(games: Path) -> None:
    env = TextWorld(str(games))
    draw = np.random.default_rng(0)
    state, met = env.reset(seed=3), set()
    for _ in range(60):
        here = set(state[-1]["admissible_commands"])
        action = int(draw.integers(env.action_space.n))  # type: ignore[attr-defined]
        turned = [*env.commands[action:], *env.commands[:action]]
        wanted = next(command for command in turned if command in here)
        assert env.chosen(action) == wanted
        state = env.step(action)
        assert state[-1]["command"] == wanted
        met |= here
        if state[2]:
            state = env.reset()
    # what is admissible and no action's changes nothing
    idle = {command.split()[0] for command in met - set(env.commands)}
    assert idle == {"examine", "inventory", "look"}
    assert {command.split()[0] for command in env.commands}.isdisjoint(idle)


def test_the_same_seed_is_the_same_episode_and_seeds_draw_games(games: Path) -> None:
    def lived(seed: int) -> list[Any]:
        env = TextWorld(str(games))
        draw = np.random.default_rng(5)
        found: list[Any] = [env.reset(seed=seed)]
        for _ in range(15):
            found.append(env.step(int(draw.integers(len(env.commands)))))
            if found[-1][2]:
                found.append(env.reset())
        return found

    assert lived(1) == lived(1)
    begun = {lived(seed)[0][1]["game"] for seed in range(6)}
    assert begun == {str(file) for file in games.glob("*.json")}


def test_two_rows_of_one_game_do_not_touch(games: Path) -> None:
    file = sorted(games.glob("*.json"))[0]
    one, other = TextWorld(str(file)), TextWorld(str(file))
    began = one.reset(seed=0)[0]
    other.reset(seed=0)
    for env in (one, other):  # one wins while the other stands where it began
        overs = [env.step(env.commands.index(command))[2] for command in walkthrough(file)]
        assert overs == [False, True]
    assert one.reset()[0] == began == other.reset()[0]


def test_the_contract_of_gymnasium_alone_and_side_by_side(games: Path) -> None:
    check_env(TextWorld(str(games)), skip_render_check=True)
    envs = gymnasium.make_vec("stillknows/TextWorld-v0", 3, games=str(games))
    seen, info = envs.reset(seed=0)
    alone = TextWorld(str(games))
    for row in range(3):
        expected, told = alone.reset(seed=row)
        assert {name: seen[name][row] for name in seen} == expected
        assert info["admissible_commands"][row] == told["admissible_commands"]
    envs.close()


def test_tasks_share_their_spaces_and_rows_their_actions(games: Path) -> None:
    first, second = sorted(games.glob("*.json"))
    tasks = textworld_tasks(
        [str(first), {"games": str(games), "name": "both", "exam": str(second)}],
        max_episode_steps=7,
    )
    assert [task.name for task in tasks] == [first.stem, "both"]
    assert all(isinstance(task, ControlTask) for task in tasks)
    one, both = (task for task in tasks if isinstance(task, ControlTask))
    assert signature_of(*spaces_of(one)) == signature_of(*spaces_of(both))
    assert both.exam["games"] == [str(second)]
    assert one.reference == 1.0
    envs = side_by_side(both, rows=2, seed=0)
    envs.reset()
    lengths = []
    for _ in range(20):
        envs.step(np.zeros(2, dtype=np.int64))
    for row in envs.envs:
        lengths += [each.length for each in row.ended]  # type: ignore[attr-defined]
        assert not row.faults  # type: ignore[attr-defined]
    assert lengths
    assert max(lengths) <= 7


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "broken.json is no game of TextWorld"),
        ("[1, 2]", "broken.json is no game of TextWorld"),
        ('{"version": 1}', "broken.json is no game of TextWorld"),
        ("no quests", "nothing can be won"),
        ("no rooms", "broken.json is no game of TextWorld"),
    ],
)
def test_games_that_cannot_be_played_are_one_sentence(
    content: str, says: str, games: Path, tmp_path: Path
) -> None:
    whole = json.loads(sorted(games.glob("*.json"))[0].read_text())
    if content == "no quests":
        content = json.dumps({**whole, "quests": []})
    if content == "no rooms":
        content = json.dumps({**whole, "world": [{"name": "at"}]})
    broken = tmp_path / "broken.json"
    broken.write_text(content)
    with pytest.raises(ValueError, match=says) as told:
        TextWorld(str(broken))
    assert "\n" not in str(told.value)


def test_a_life_in_games_is_lived_by_one_command(games: Path, tmp_path: Path) -> None:
    first, second = sorted(games.glob("*.json"))
    options = [
        "stream=textworld",
        f"stream.tasks.games=[{first},{{games: {second}, name: second}}]",
        "stream.tasks.max_episode_steps=4",
        "stream.steps=64",
        "stream.exam_episodes=4",
        "learner.horizon=16",
        "learner.sequence=8",
        "learner.minibatches=2",
        "learner.epochs=1",
        "controller.width=16",
        "rows=2",
        "arm=none",
    ]
    config = compose_config(options)
    check_life(config)
    live_lifetime(config, tmp_path, lambda *_: None)
    events = logs.read(tmp_path)
    assert not [event for event in events if event["event"] == "fault"]
    life = summarise(events)
    assert life.matrix.shape == (3, 2)
    exams = [event for event in events if event["event"] == "examination"]
    assert all(0 <= paid <= 1 for event in exams for paid in event["returns"])
    for event in exams:
        assert event["correct"] == [int(paid == 1) for paid in event["returns"]]
    assert life.acted["reference"] == [1.0, 1.0]
    assert "## Returns, task by task" in write_report([tmp_path], tmp_path)
