"""The checks of memories pass for every memory of ours, and each fails for its own fault alone."""

from pathlib import Path
from typing import Any

import pytest
import torch
from faulty import STEPS, nec, slots
from hydra.utils import instantiate

from stillknows.agents.assembly import episodic_of
from stillknows.agents.configuration import compose_config
from stillknows.memory.checks import check_store, check_working
from stillknows.memory.checks.check import MemoryFault, bench_of, check_memory
from stillknows.memory.interface import Policy
from stillknows.memory.memory_network import MemoryNetwork
from stillknows.memory.nec import NEC
from stillknows.memory.policies.learned import UtilityPolicy
from stillknows.memory.policies.rules import EvictRare, Reservoir, WriteNothing

CONFIGS = Path(__file__).parents[1] / "configs"
SMALL = {"slots": 4, "bytes": 20_000}
GPU = set() if torch.cuda.is_available() else {"gpu"}


def configured(group: str) -> list[str]:
    return sorted({file.stem for file in (CONFIGS / group).glob("*.yaml")} - {"none"})


def shrink(config: Any) -> Any:
    for name, size in SMALL.items():
        if name in config:
            config[name] = size
    return config


def unless(holds: bool, *names: str) -> set[str]:
    return set() if holds else set(names)


def test_there_are_memories_to_check() -> None:
    assert {"slots", "dnc"} <= set(configured("working_memory"))
    assert {"nec", "replay"} <= set(configured("episodic_memory"))


LINKS = "working_memory.link._target_=stillknows.memory.links."
SWITCHES = [f"working_memory.{name}=true" for name in ("masked", "deallocate", "sharp")]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, ()) for name in configured("working_memory")),
        ("dnc", (f"{LINKS}SparseLink",)),
        ("dnc", (f"{LINKS}FactoredLink",)),
        ("dnc", ("working_memory.write_heads=2", *SWITCHES)),
    ],
)
def test_every_working_memory_keeps_the_contract(name: str, options: tuple[str, ...]) -> None:
    config = compose_config([f"working_memory={name}", "controller.width=16", *options])
    torch.manual_seed(0)
    memory = instantiate(shrink(config.working_memory))
    names = check_memory(memory, config.controller.width, STEPS)
    fed_back = "reads_BRW" in memory.initial_state(1)._fields
    assert set(names) == set(check_working.CHECKS) - unless(fed_back, "feedback") - GPU


@pytest.mark.parametrize("name", configured("episodic_memory"))
def test_every_store_keeps_the_contract(name: str) -> None:
    chosen = (f"episodic_memory={name}", "episodic_policy=evict_oldest")
    config = compose_config([*chosen, "controller.width=16"])
    config.episodic_memory = shrink(config.episodic_memory)
    store = episodic_of(config)
    names = check_memory(store, steps=STEPS)
    keys = bool(config.episodic_memory.key_size)
    reading = unless(keys, "recall", "use", "weights", "rows", "rekey", "gradient")
    assert set(names) == set(check_store.CHECKS) - reading - GPU
    assert len(store) == 0


@pytest.mark.parametrize("policy", [WriteNothing(), Reservoir(), EvictRare(), UtilityPolicy()])
def test_a_store_keeps_the_contract_whatever_its_policy_refuses(policy: Policy) -> None:
    store = NEC(5, 4, 3, policy, answer_length=2, story_shape=(2, 3), neighbours=7)
    assert set(check_memory(store, steps=20)) == set(check_store.CHECKS) - GPU


def test_a_linear_start_has_no_weights() -> None:
    names = check_memory(MemoryNetwork(4, 8, linear_start=True), steps=STEPS)
    assert set(names) == set(check_working.CHECKS) - {"weights", "feedback"} - GPU


def test_a_check_leaves_the_memory_and_the_random_state_as_they_were() -> None:
    memory, store = slots(), nec()
    before = [x.clone() for x in memory.state_dict().values()], torch.get_rng_state()
    told: list[str] = []
    assert check_memory(memory, steps=3, report=told.append) == told
    check_memory(store, steps=3)
    assert all(map(torch.equal, memory.state_dict().values(), before[0]))
    assert torch.equal(torch.get_rng_state(), before[1])
    assert (store.seen, len(store)) == (0, 0)


@pytest.mark.parametrize(("steps", "held", "words"), [(0, 0, "at least one"), (3, 1, "empty one")])
def test_what_cannot_be_checked_is_said(steps: int, held: int, words: str) -> None:
    store = nec()
    if held:
        store.remember(check_store.candidates(bench_of(store), held))
    with pytest.raises(ValueError, match=words) as error:
        check_memory(store, steps=steps)
    assert not isinstance(error.value, MemoryFault)


@pytest.mark.parametrize("size", [1, 2, 4])
def test_tokens_of_any_size_are_in_the_contract(size: int) -> None:
    store = NEC(9, 4, 3, Reservoir(), story_shape=(2, 3), token_bytes=size)
    assert "columns" in check_memory(store, steps=9)
