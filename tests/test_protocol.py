"""Fingerprints: equal where lifetimes may be averaged, different where not."""

import hashlib
from pathlib import Path
from typing import Any

import hydra.utils
import pytest
from omegaconf import OmegaConf

from stillknows.agents.commands.train import plan_lives
from stillknows.agents.configuration import compose_config
from stillknows.agents.lifetime import episodes_of
from stillknows.agents.persistence.resuming import read_plan, write_plan
from stillknows.agents.reports.protocol import (
    differences,
    fingerprint,
    logged_setting,
    protocol_of,
    setting_of,
)
from stillknows.envs.order import places_of, task_order
from stillknows.envs.tasks import EDITION, make


def print_of(*overrides: str) -> str:
    return fingerprint(setting_of(compose_config(overrides), 1))


@pytest.mark.parametrize(
    "overrides",
    [
        ["seed=3"],
        ["order=2"],
        ["arm=none"],
        ["arm=replay", "seed=1"],
        ["exam_arms=[agent]"],
        ["anatomy=true"],
        ["learner.learning_rate=0.001", "controller.width=32"],
        ["run=elsewhere", "workers=3", "arms=[none]"],
        ["stream.interim_episodes=7"],  # of examinations that are not held
    ],
)
def test_lifetimes_that_may_be_averaged(overrides: list[str]) -> None:
    assert print_of(*overrides) == print_of()


@pytest.mark.parametrize(
    "overrides",
    [
        ["rows=16"],
        ["stream.episodes=6400"],
        ["stream.exam_episodes=64"],
        ["stream.exam_every=50"],
        ["stream.tasks.people=4"],
        ["stream.tasks.life=0"],  # all seeds live in one world
        ["stream=stress"],
        ["arm=joint"],
        ["arm=scratch"],
        ["arm=ewc"],
        ["protocol=identity told"],
    ],
)
def test_lifetimes_that_may_not(overrides: list[str]) -> None:
    assert print_of(*overrides) != print_of()


def test_older_logs_have_the_fingerprint_of_their_configuration() -> None:
    config = compose_config(["seed=5"])
    whole: Any = OmegaConf.to_container(config, resolve=True)
    for new in ("exam_every", "interim_episodes"):
        del whole["stream"][new]
    head = {"schema": 1, "seed": 5, "protocol": "identity hidden", "config": whole}
    now = setting_of(config, 1)
    assert logged_setting(head) == {name: now[name] for name in now if name != "edition"}
    bare = {"schema": 1, "seed": 5, "protocol": "joint", "tasks": ["a"]}
    assert logged_setting(bare) == {"protocol": "joint", "schema": 1, "tasks": ["a"]}


def test_a_life_that_was_planned_has_the_fingerprint_of_its_configuration(tmp_path: Path) -> None:
    overrides = ["seeds=[5]", "arms=[both]"]
    lives = plan_lives(compose_config(overrides), overrides)
    (name,) = lives
    write_plan(tmp_path / "run", lives)
    again = read_plan(tmp_path / "run")[name]
    assert setting_of(again, 1) == setting_of(lives[name], 1)
    assert OmegaConf.to_container(again, resolve=True) == OmegaConf.to_container(
        lives[name], resolve=True
    )


def test_what_differs_is_named() -> None:
    one, other = (setting_of(compose_config([f"rows={rows}"]), 1) for rows in (8, 16))
    assert differences(one, other) == "rows (8 against 16)"
    assert differences(one, one) == ""
    assert "stream.tasks.facts (None against 4)" in differences(
        one, setting_of(compose_config(["stream=stress"]), 1)
    )


@pytest.mark.parametrize(
    ("stream", "edition", "told"),
    [
        ("stream=microworld", 2, "334135ed6f36"),
        ("experiment=applications", 3, "58655d0ebd56"),
        ("experiment=reasoning", 3, "3420d353916f"),
        ("stream=recall", 3, "a7969857c691"),
    ],
)
def test_the_same_seed_tells_the_same_stories_in_one_edition(
    stream: str, edition: int, told: str
) -> None:
    digest = hashlib.sha256()
    for task in hydra.utils.instantiate(compose_config([stream]).stream.tasks):
        for options in (task.train, task.exam):
            envs = make(task, 3, options)
            seen, _ = envs.reset(seed=5, options={"episode": 30})
            for _ in range(12):
                digest.update(repr(seen).encode())
                seen, *_ = envs.step(("",) * 3)
    # where stories are others now: raise EDITIONS in envs/tasks.py, and only then write this anew
    assert setting_of(compose_config([stream]), 1)["edition"] == edition
    assert digest.hexdigest()[:12] == told


def test_lives_of_another_edition_are_not_of_the_same_protocol() -> None:
    now = setting_of(compose_config([]), 1)
    assert differences({**now, "edition": EDITION - 1}, now) == "edition (1 against 2)"
    assert fingerprint({**now, "edition": EDITION - 1}) != fingerprint(now)


def test_protocols_have_names() -> None:
    assert protocol_of(compose_config(["arm=joint"])) == "joint"
    with pytest.raises(ValueError, match="Did you mean 'identity told'"):
        protocol_of(compose_config(["protocol=identity tld"]))


def test_orders_never_repeat_and_move_budgets_with_their_tasks() -> None:
    assert task_order(4, 0) == [0, 1, 2, 3]
    every = {tuple(task_order(3, order)) for order in range(6)}
    assert len(every) == 6
    assert task_order(50, 7) != task_order(50, 8)
    for wrong in (6, -1, "2"):
        with pytest.raises(ValueError, match="3 tasks have 6 orders"):
            task_order(3, wrong)  # type: ignore[arg-type]
    budgets = [64, 96, 128]
    names = "[route,where_person,count_objects]"
    options = [f"stream.tasks.tasks={names}", f"stream.episodes={budgets}", "rows=32"]
    for order in range(6):
        config = compose_config([*options, f"order={order}"])
        assert episodes_of(config) == [budgets[place] for place in task_order(3, order)]


def test_tasks_that_return_have_places_of_their_own() -> None:
    assert places_of([1, 0, 2], [0, 1, 2]) == [1, 0, 2]
    assert places_of([1, 0, 1, 0], [0, 1, 0, 1]) == [1, 0, 3, 2]
    names = "stream.tasks.tasks=[route,where_person,count_objects]"
    budgets = "stream.episodes=[64,96,128]"
    config = compose_config(["stream.cycles=2", "order=3", names, budgets])
    once = [[64, 96, 128][place] for place in task_order(3, 3)]
    assert episodes_of(config) == once * 2
