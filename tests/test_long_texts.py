"""Texts and answers of any length are read, or refused in a sentence, by every controller."""

import pytest
import torch
from omegaconf import DictConfig

from stillknows.agents.assembly import build_agent
from stillknows.agents.controllers.longformer import Longformer
from stillknows.agents.controllers.lstm import LSTM
from stillknows.agents.controllers.transformer import Transformer
from stillknows.agents.controllers.transformer_xl import TransformerXL
from stillknows.agents.controllers.tree_lstm import TreeLSTM
from stillknows.agents.dialogue import Dialogue
from stillknows.envs.microworld import microworld_tasks


@pytest.mark.parametrize("kind", [LSTM, Longformer, TransformerXL, TreeLSTM])
def test_long_texts_and_answers_are_read(kind: type) -> None:
    torch.manual_seed(0)
    controller = kind(50, width=16).eval()
    text_BL, answer_BA = torch.full((1, 300), 45), torch.full((1, 300), 46)
    with torch.no_grad():
        vector_BD, cache = controller.encode(text_BL)
        logits_BSV = controller.answer_logits(vector_BD, text_BL, cache, answer_BA)
    assert logits_BSV.shape == (1, 301, 50)
    assert logits_BSV.isfinite().all()


@pytest.mark.parametrize("kind", [LSTM, Longformer, Transformer, TransformerXL, TreeLSTM])
def test_a_text_in_mixed_precision_is_a_vector_of_float32(kind: type) -> None:
    torch.manual_seed(0)
    controller, text_BL = kind(50, width=16).eval(), torch.full((1, 20), 45)
    with torch.no_grad():
        exact_BD, _ = controller.encode(text_BL)
        with torch.autocast("cpu", torch.bfloat16):
            vector_BD, _ = controller.encode(text_BL)
    assert vector_BD.dtype == torch.float32
    torch.testing.assert_close(vector_BD, exact_BD, rtol=0, atol=0.1)


def test_a_transformer_says_what_is_too_long() -> None:
    torch.manual_seed(0)
    controller = Transformer(50, width=16, longest=8).eval()
    fits = torch.full((1, 8), 45)
    with torch.no_grad(), pytest.raises(ValueError, match=r"9 tokens, .* raise controller.longest"):
        controller.encode(torch.full((1, 9), 45))
    with torch.no_grad():
        vector_BD, cache = controller.encode(fits)
        assert controller.answer_logits(vector_BD, fits, cache, fits).shape == (1, 9, 50)
        with pytest.raises(ValueError, match=r"An answer has 9 .* lower agent.answer_length"):
            controller.answer_logits(vector_BD, fits, cache, torch.full((1, 9), 45))


def test_an_answer_longer_than_the_controller_says_is_told_in_a_dialogue(tiny: DictConfig) -> None:
    tiny.controller.longest, tiny.agent.answer_length = 6, 12
    torch.manual_seed(0)
    dialogue = Dialogue(build_agent(tiny, microworld_tasks(["where_person"])))
    with pytest.raises(ValueError, match=r"An answer has 7 tokens, and this controller says 6"):
        dialogue.answer("where is john ?")
