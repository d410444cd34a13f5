"""What is rehearsed meets the memory that it met when it was lived, whatever the policy draws."""

from typing import Any

import hydra.utils
import pytest
import torch
from agents_of import TINY

from stillknows.agents.assembly import build_agent
from stillknows.agents.configuration import compose_config
from stillknows.agents.episode import live
from stillknows.envs.tasks import make

torch.set_num_threads(1)


@pytest.mark.parametrize("policy", ["evict_uniformly", "actor", "retention"])
def test_the_same_weights_answer_as_when_it_was_lived(policy: str) -> None:
    config = compose_config(
        [*TINY, "arm=replay", f"working_policy={policy}", "working_memory.slots=4",
         "learner.rehearse=64", "learner.learning_rate=0", "learner.matrix_rate=0"]
    )  # fmt: skip
    torch.manual_seed(0)
    tasks: Any = hydra.utils.instantiate(config.stream.tasks, _convert_="all")
    agent = build_agent(config, tasks)
    learner: Any = hydra.utils.instantiate(config.learner, agent, seed=0)
    with torch.no_grad():
        for weight in agent.fuse.parameters():  # what is read must matter
            weight.mul_(20)
    learner.begin(2)
    live(agent, make(tasks[0], 8, tasks[0].train), learner, task=0, seed=0)
    logs = [logs_SV.detach() for asked in learner.asked for logs_SV in asked.logs_BSV]
    told = zip(learner.remembering.pending, logs, strict=True)
    lived = {written.entry: logs_SV for written, logs_SV in told}
    learner._rehearse()
    ids, now = learner.rehearsed
    assert len(ids) >= 8
    for number, logs_SV in zip(ids, now.logs_BSV.detach(), strict=True):
        places = min(len(logs_SV), len(lived[number]))
        torch.testing.assert_close(logs_SV[:places], lived[number][:places], atol=1e-4, rtol=1e-4)
