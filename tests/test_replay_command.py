"""`stillknows train operations=N`, then `stillknows replay`: a table, and faults in a sentence."""

import json
from pathlib import Path

import hydra.utils
import pytest
import torch

from stillknows.agents.assembly import build_agent
from stillknows.agents.commands.cli import main
from stillknows.agents.configuration import compose_config
from stillknows.agents.lifetime import live_lifetime
from stillknows.agents.persistence.keeping import save_agent
from stillknows.agents.teaching.offline_learning import offline_policy, save_policy
from stillknows.agents.teaching.operations import load_operations, save_operations
from stillknows.memory.policies.offline import OfflinePolicy

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::SyntaxWarning"),
]
TINY = (
    *("debug=tiny", "arm=none", "working_policy=evict_rare", "working_memory.slots=4"),
    *("stream.tasks.tasks=[where_person]", "stream.episodes=48", "stream.exam_episodes=8"),
)


@pytest.fixture(scope="module")
def life(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a life whose operations were logged at every second of six updates."""
    folder = tmp_path_factory.mktemp("lived") / "life"
    live_lifetime(compose_config([*TINY, "operations=2"]), folder, lambda *_: None)
    return folder


def said(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, list[str], str]:
    status = main(["replay", *arguments])
    out, err = capsys.readouterr()
    return status, out.splitlines(), err


def test_logging_changes_nothing_of_the_life(life: Path, tmp_path: Path) -> None:
    names = [path.name for path in sorted((life / "operations").iterdir())]
    assert names == ["0000002.safetensors", "0000004.safetensors", "0000006.safetensors"]
    live_lifetime(compose_config([*TINY]), tmp_path / "other", lambda *_: None)
    logs = []
    for folder in (life, tmp_path / "other"):
        events = map(json.loads, (folder / "log.jsonl").read_text().splitlines())
        logs.append(
            [
                {**e, "time": 0, "checksum": ""}
                for e in events
                if e["event"] in ("update", "examination")
            ]
        )
    assert logs[0] == logs[1]
    operations = load_operations(life / "operations" / names[0])
    assert operations.policy == "EvictRare"
    assert operations.slots == 4
    assert len(operations.key_B) == 8


def test_the_command_compares_policies(life: Path, capsys: pytest.CaptureFixture[str]) -> None:
    both = ("working_policy=evict_rare", "working_policy=write_nothing")
    status, lines, err = said(capsys, str(life), *both)
    assert (status, err) == (0, "")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert [row[0] for row in cells] == ["EvictRare, as it was", "evict_rare", "write_nothing"]
    assert cells[0][1:] == cells[1][1:]
    assert cells[2][3] == "0.000"
    status, lines, _ = said(capsys, str(life), "working_policy=evict_oldest", "--slots", "12")
    assert [line.split("|")[4].strip() for line in lines[2:]] == ["1.000"]
    agent = life / "agent.safetensors"
    _, lines, _ = said(capsys, str(life), f"working_policy={agent}")
    assert lines[3].split("|")[4] == lines[2].split("|")[4]


def test_policies_of_ones_own_are_built_and_loaded_if_their_module_is_allowed(
    life: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    rules = "stillknows.memory.policies.rules"
    (tmp_path / "ours.py").write_text(
        f"from {rules} import WriteNothing\nclass Mine(WriteNothing): ..."
    )
    own = "working_policy._target_=ours.Mine"
    status, lines, err = said(capsys, str(life), own, "working_policy=evict_rare")
    assert (status, err) == (0, "")
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines[2:]]
    assert [row[0] for row in cells] == ["EvictRare, as it was", "ours.Mine", "evict_rare"]
    assert [float(row[3]) > 0 for row in cells] == [True, False, True]
    config = compose_config([*TINY[:3], own])
    agent = build_agent(config, hydra.utils.instantiate(config.stream.tasks, _convert_="all"))
    save_agent(agent, tmp_path / "mine.safetensors")
    kept = f"working_policy={tmp_path / 'mine.safetensors'}"
    status, lines, err = said(capsys, str(life), kept)
    assert (status, lines) == (2, [])
    assert "if you trust it, allow its module ('ours')" in err
    status, lines, _ = said(capsys, str(life), kept, "--allow", "ours")
    assert (status, lines[3].split("|")[4].strip()) == (0, "0.000")


def test_logs_of_several_policies_are_told_each_once(
    life: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = life / "operations" / "0000002.safetensors"
    one = load_operations(file)
    save_operations(
        one._replace(policy="Other", slots=9), tmp_path / "operations" / "1.safetensors"
    )
    _, lines, _ = said(capsys, str(life), str(tmp_path), str(file))
    cells = [cell.strip() for cell in lines[2].split("|")[1:4]]
    logs = [*map(load_operations, (life / "operations").iterdir()), one]
    statements = sum(int(log.present_BT.sum()) for log in logs)
    assert cells == ["EvictRare and Other, as it was", f"{statements:,}", "4, 9"]
    _, lines, _ = said(capsys, str(life), str(tmp_path), "--slots", "2")
    assert lines[2].split("|")[3].strip() == "2"


def test_a_policy_is_learned_from_the_log_and_kept(
    life: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "policy.safetensors"
    status, lines, _ = said(capsys, str(life), "--learn", str(path))
    assert status == 0
    assert [line.split("|")[1].strip() for line in lines[2:]] == ["EvictRare, as it was", "offline"]
    config = compose_config(["working_policy=offline", f"working_policy.weights={path}"])
    assert config.working_policy.weights == str(path)
    torch.manual_seed(9)
    kept, fresh = offline_policy(str(path)), OfflinePolicy()
    name = "network.0.weight"
    assert not torch.equal(kept.state_dict()[name], fresh.state_dict()[name])


def test_mistakes_are_one_sentence(
    life: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one = str(life / "operations" / "0000002.safetensors")
    broken = tmp_path / "operations" / "1.safetensors"
    broken.parent.mkdir()
    broken.write_bytes(b"nothing")
    save_policy(OfflinePolicy(8), tmp_path / "small.safetensors")
    weights = f"working_policy.weights={tmp_path / 'small.safetensors'}"
    other = compose_config([*TINY, "working_policy=actor", "controller.width=32"])
    torch.manual_seed(0)
    wide = build_agent(other, hydra.utils.instantiate(other.stream.tasks, _convert_="all"))
    save_agent(wide, tmp_path / "wide.safetensors")
    for arguments, words in (
        ((str(life), f"working_policy={tmp_path / 'wide.safetensors'}"), "vectors of 32 numbers"),
        ((str(life), str(tmp_path / "nowhere")), "no memory operations in"),
        (("working_policy=evict_rare",), "Whose memory operations?"),
        ((str(tmp_path / "none"),), "train with operations=N"),
        ((str(life), "working_policy=evict_rar"), "Did you mean 'evict_rare'"),
        ((str(life), "--slots", "0"), "slots=0 should be a whole number, at least 1"),
        ((one, "--learn", str(tmp_path / "x")), "there must be two"),
        ((str(broken),), "is broken"),
        ((str(life), "working_policy=surprise"), "working_policy"),
        ((str(life), "working_policy=offline", weights), "another network"),
    ):
        status, lines, err = said(capsys, *arguments)
        assert (status, lines) == (2, [])
        assert len(err.splitlines()) == 1
        assert words in err
    with pytest.raises(ValueError, match="operations=-1 should be a whole number"):
        live_lifetime(compose_config([*TINY, "operations=-1"]), tmp_path / "less", lambda *_: None)
    with pytest.raises(ValueError, match="operations=3 logs what a working memory of slots does"):
        live_lifetime(
            compose_config([*TINY[:2], "working_memory=dnc", "operations=3"]),
            tmp_path / "dnc",
            lambda *_: None,
        )
