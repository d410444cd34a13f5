"""The check of policies: every policy of the project passes, and every planted fault is named."""

from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import hydra.utils
import pytest
import torch

from stillknows import configs
from stillknows.agents import configuration
from stillknows.agents.commands.cli import main
from stillknows.agents.configuration import compose_config
from stillknows.memory.checks.check_bench import MemoryFault
from stillknows.memory.checks.check_policy import CHECKS, check_policy
from stillknows.memory.interface import ADD, Decision, Features, one_hot
from stillknows.memory.policies.rules import EvictOldest, EvictUniformly, Novelty
from stillknows.memory.slots import Slots

FOLDER = Path(configs.__file__).parent
EVERY = [
    (group, file.stem)
    for group in ("working_policy", "episodic_policy")
    for file in sorted((FOLDER / group).glob("*.yaml"))
]


@pytest.mark.parametrize(("group", "name"), EVERY)
@pytest.mark.parametrize("training", [True, False])
def test_every_policy_keeps_its_contract(group: str, name: str, training: bool) -> None:
    config = compose_config([f"{group}={name}", "controller.width=8"])
    torch.manual_seed(0)
    policy = hydra.utils.instantiate(config[group])
    if isinstance(policy, torch.nn.Module):
        policy.train(training)
    assert check_policy(policy, 8, group == "episodic_policy", steps=120) == list(CHECKS)


class Sound(EvictUniformly):
    """A policy without a fault; each fault below changes one thing."""


class Twice(Sound):
    """Its probabilities sum to 2."""

    def decide(self, features: Features) -> Decision:
        decision = super().decide(features)
        return decision._replace(action_B4=2 * decision.action_B4)


class Moody(Sound):
    """Decides by chance of its own."""

    def decide(self, features: Features) -> Decision:
        decision = super().decide(features)
        return decision._replace(log_prob_B=-torch.rand(len(decision.log_prob_B)))


class Messy(Sound):
    """Works on what it was given."""

    def decide(self, features: Features) -> Decision:
        features.age_BN.mul_(2)
        return super().decide(features)


class Crowd(Sound):
    """Lets leave what is oldest in all rows together."""

    def decide(self, features: Features) -> Decision:
        decision = super().decide(features)
        victim_B = features.age_BN.sum(0).argmax().expand(len(features.seen_B))
        full_B1 = features.filled_BN.all(dim=1, keepdim=True)
        victim_BN = one_hot(victim_B, features.filled_BN.shape[1]) * full_B1
        return decision._replace(victim_BN=victim_BN * decision.action_B4[:, [ADD]])


class Quiet(Sound):
    """Says that it needs no noise, and looks at it."""

    needs_noise = False


class Sparing(Novelty):
    """Says that it writes while there is room, and refuses what it knows."""

    fills_room = True


class Unsaved(torch.nn.Module):
    """Keeps a number that its state does not hold."""

    needs_noise = True

    def __init__(self) -> None:
        super().__init__()
        self.hidden = torch.nn.Linear(1, 1)
        self.rule = Sound()

    def decide(self, features: Features) -> Decision:
        decision = self.rule.decide(features)
        number = self.hidden.weight.detach().sigmoid()[0, 0]
        return decision._replace(log_prob_B=-number.expand(len(decision.log_prob_B)))

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        return {}

    def load_state_dict(self, *args: Any, **kwargs: Any) -> None:
        return None


class Unregistered(torch.nn.Module):
    """Keeps a number that is neither a parameter nor a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.number, self.rule = torch.tensor(-1.0), Sound()

    def decide(self, features: Features) -> Decision:
        decision = self.rule.decide(features)
        return decision._replace(log_prob_B=self.number.expand(len(decision.log_prob_B)))


class Counting(Sound):
    """Decides by how often it was asked."""

    asked = 0

    def decide(self, features: Features) -> Decision:
        self.asked += 1
        decision = super().decide(features)
        return decision._replace(log_prob_B=decision.log_prob_B - self.asked)


class Keeping(Sound):
    """Keeps how many candidates it was shown, and decides by nothing of it; not while `resting`."""

    def __init__(self, resting: bool = False) -> None:
        super().__init__()
        self.counts: list[dict[str, int]] = [{"shown": 0}]
        self.resting = resting

    def decide(self, features: Features) -> Decision:
        self.counts[0]["shown"] += not self.resting
        return super().decide(features)


class Drawing(Sound):
    """Draws a number that it does not use."""

    def decide(self, features: Features) -> Decision:
        torch.rand(1)
        return super().decide(features)


class Learning(torch.nn.Module):
    """Keeps how many candidates it was shown, in training alone."""

    seen: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.rule = Sound()

    def decide(self, features: Features) -> Decision:
        if self.training:
            self.seen += 1
        return self.rule.decide(features)


class Alike(Sound):
    """Says that it needs no similarity, and looks at it."""

    needs_similarity = False

    def decide(self, features: Features) -> Decision:
        decision = super().decide(features)
        return decision._replace(log_prob_B=-features.similarity_BN.abs().sum(dim=1))


class Disorderly(Sound):
    """Says that the first in is the first out, and lets anything leave."""

    leaves_first = "birth"


class Tired(Sound):
    """Gives NaN after candidate 60."""

    def decide(self, features: Features) -> Decision:
        decision = super().decide(features)
        late_B1 = features.seen_B[:, None] > 60
        return decision._replace(action_B4=decision.action_B4.masked_fill(late_B1, torch.nan))


@pytest.mark.parametrize(
    ("fault", "name"),
    [
        (Twice(), "decision"),
        (Moody(), "repeat"),
        (Messy(), "input"),
        (Crowd(), "rows"),
        (Quiet(), "noise"),
        (Sparing(0.5), "room"),
        (Unsaved(), "save"),
        (Unregistered(), "save"),
        (Counting(), "repeat"),
        (Keeping(), "state"),
        (Drawing(), "state"),
        (Alike(), "similarity"),
        (Tired(), "long"),
    ],
)
def test_a_fault_is_found_by_its_check(fault: Any, name: str) -> None:
    check_policy(Sound(), 8, steps=120)
    with pytest.raises(MemoryFault, match=f"^{name}: "):
        check_policy(fault, 8, steps=120)


def test_what_a_policy_keeps_is_named_unless_it_is_kept_in_training() -> None:
    with pytest.raises(MemoryFault, match="Keeping keeps 'counts' from one decision to the next"):
        check_policy(Keeping(), 8, steps=120)
    with pytest.raises(MemoryFault, match="Drawing changes PyTorch's random state when it decides"):
        check_policy(Drawing(), 8, steps=120)
    policy = Learning()
    policy.train = lambda mode=True: policy  # type: ignore[method-assign]
    with pytest.raises(MemoryFault, match="Learning keeps 'seen' from"):
        check_policy(policy, 8, steps=120)
    policy = Learning()
    for able in (Keeping(resting=True), policy):
        assert check_policy(able, 8, steps=120) == list(CHECKS)
    assert policy.training
    check_policy(Keeping(), 8, lifelong=True, steps=120)  # an examination asks it nothing


def test_what_a_policy_says_of_its_order_in_a_store_is_looked_at() -> None:
    with pytest.raises(MemoryFault, match=r"^room: .* do not say leaves_first = 'birth'"):
        check_policy(Disorderly(), 8, lifelong=True, steps=120)


def test_an_add_that_names_no_slot_takes_the_first_free_one() -> None:
    class Nameless(EvictOldest):
        leaves_first = fills_room = None

        def decide(self, features: Features) -> Decision:
            decision = super().decide(features)
            return decision._replace(slot_BN=torch.zeros_like(decision.slot_BN))

    memory = Slots(4, 8, hops=1, heads=1, recency=(0.0,))
    items, here = torch.randn(2, 6, 8), torch.ones(2, 6, dtype=torch.bool)
    named, nameless = (
        memory.write(memory.initial_state(2), items, here, policy)
        for policy in (EvictOldest(), Nameless())
    )
    assert torch.equal(nameless.birth_BN, named.birth_BN)
    assert torch.equal(nameless.values_BNW, named.values_BNW)


def test_a_policy_of_another_package_is_chosen_by_its_name(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    plugged = EntryPoint("working_policy.mine", "their.module:Mine", configuration.PLUGINS)
    monkeypatch.setattr(configuration, "entry_points", lambda group: [plugged])
    config = compose_config(["working_policy=mine", "episodic_policy=novelty"])
    assert dict(config.working_policy) == {"_target_": "their.module.Mine"}
    assert config.episodic_policy._target_.endswith("Novelty")
    with pytest.raises(ValueError, match="There is no working_policy 'mind'"):
        compose_config(["working_policy=mind"])


def test_the_command_checks_policies(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "working_policy=evict_oldest", "--steps", "60"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [f"working_policy: {name} passed" for name in CHECKS]
    assert main(["check", "working_policy._target_=test_check_policy.Nobody"]) == 2
    assert "test_check_policy" in capsys.readouterr().err
    assert main(["check", "working_policy._target_=stillknows.memory.policies.rules.Surprise"]) == 1
    assert "decision: the policy raised ValueError" in capsys.readouterr().err


def test_what_chooses_for_a_memory_is_not_offered() -> None:
    with pytest.raises(ValueError, match="Known: actor, critic") as told:
        compose_config(["working_policy=utility"])
    assert "for_" not in str(told.value)
