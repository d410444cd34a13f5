"""Words and letters of any script come back, and none is taken for a special token."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from omegaconf import DictConfig

from stillknows.agents.assembly import build_agent
from stillknows.agents.controllers.tokenizer import CLOSE, END, LEFT, OPEN, OTHER, WordTokenizer
from stillknows.agents.dialogue import Dialogue
from stillknows.agents.persistence.memory_lines import entry_lines
from stillknows.agents.retrieve import recalled_sentences
from stillknows.envs.microworld import microworld_tasks
from stillknows.envs.text import balanced_tree

WORDS = ("garden", "is", "in", ".", "?")
TOKENIZER = WordTokenizer(WORDS)
SPECIAL = ("<pad>", "<end>", "<spell>", "</spell>", "<?>")
letters = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=12)
texts = st.lists(letters | st.sampled_from([*SPECIAL, *WORDS]), max_size=6).map(" ".join)


@given(texts)
def test_words_of_any_script_come_back(text: str) -> None:
    tokens = TOKENIZER.encode(text)
    assert TOKENIZER.decode([*tokens, END, *tokens]) == " ".join(text.split())
    assert END not in tokens
    assert OTHER not in tokens


@given(texts)
def test_what_a_person_writes_loses_case_and_spaces_alone(text: str) -> None:
    plain = TOKENIZER.plain(text)
    assert TOKENIZER.decode(TOKENIZER.encode(plain)) == plain == TOKENIZER.plain(plain)
    if text.isascii():
        assert "".join(plain.split()) == "".join(text.lower().split())


@pytest.mark.parametrize(
    ("text", "plain"),
    [
        ("Zoé wohnt: Straße 7!", "zoé wohnt : straße 7 !"),
        ("Zoe\u0301 Жук", "zoé жук"),
        ("猫 is in a <end>", "猫 is in a < end >"),
        ("don't (go) north-east", "don't ( go ) north-east"),
        ("a\x00b\x1b[1m \udce9", "a b [ 1m"),
        (" \t\n", ""),
    ],
)
def test_text_is_made_plain(text: str, plain: str) -> None:
    assert TOKENIZER.plain(text) == plain


def test_a_letter_without_a_token_is_spelled_by_its_number() -> None:
    letter = TOKENIZER.ids.__getitem__
    assert TOKENIZER.encode("zé") == [OPEN, letter("'z"), OPEN, letter("'e"), letter("'9"), 3, 3]
    assert TOKENIZER.encode("garden") == [letter("garden")]
    assert WordTokenizer(["<end>"]).encode("<end>") == [41]  # a word of the stream, and no end


def test_what_is_cut_off_is_no_other_letter() -> None:
    tokens = TOKENIZER.encode("in zЖ")
    assert tokens[-2:] == [CLOSE, CLOSE]
    cut = [TOKENIZER.decode(tokens[:length]) for length in range(1, len(tokens) + 1)]
    assert cut == ["in", "in", "in z", *["in z<?>"] * 4, "in zЖ", "in zЖ"]


@given(st.lists(st.integers(0, len(TOKENIZER) - 1), max_size=20))
def test_whatever_is_spoken_is_text(tokens: list[int]) -> None:
    text = TOKENIZER.decode(tokens)
    assert text.encode().decode() == text
    assert TOKENIZER.decode(TOKENIZER.encode(text)) == " ".join(text.split())


@pytest.mark.parametrize("number", ["", "1b", "d800", "ffffffffff", "x"])
def test_a_number_without_a_letter_is_told(number: str) -> None:
    spelled = [OPEN, OPEN, *(TOKENIZER.ids[f"'{digit}"] for digit in number), CLOSE, CLOSE]
    assert TOKENIZER.decode(spelled) == "<?>"


def test_brackets_of_a_text_are_none_of_its_tree() -> None:
    trees = WordTokenizer(WORDS, brackets=True)
    plain = trees.plain("garden (is) in")
    assert plain == "garden （ is ） in"
    told = balanced_tree(plain).replace("(", "( ").replace(")", " )")
    tokens = trees.encode(told)
    assert trees.decode(tokens) == told
    assert tokens.count(LEFT) == 4  # five words, two and two


def test_a_stored_story_reads_as_it_was_told(tiny: DictConfig) -> None:
    tiny.story_shape = [2, 40]
    tiny.agent.answer_length = 8
    torch.manual_seed(0)
    agent = build_agent(tiny, microworld_tasks(["where_person"]))
    dialogue, store = Dialogue(agent), agent.episodic_memory
    assert store is not None
    dialogue.observe("Zoé went to the <end> garden.")
    dialogue.answer("Where is Жук?")
    dialogue.correct("zoé")
    (entry,) = entry_lines(store, agent.tokenizer.decode)
    asked = "where is жук ?"
    story = ["zoé went to the < end > garden .", asked]
    assert entry["text"] == {"question": asked, "answer": "zoé", "story": story}
    with torch.no_grad():
        recall = store.recall(agent.key(agent.tokenizer.batch([asked])))
    assert recalled_sentences(recall, store, agent.tokenizer.decode, 1) == [(f"{asked} zoé",)]
