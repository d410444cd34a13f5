"""Trees and Tree-LSTMs: layout, the paper's equations node by node, and what defines them."""

import random

import gymnasium
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from stillknows.agents.controllers.tokenizer import LEFT, PAD, RIGHT, WordTokenizer
from stillknows.agents.controllers.tree_lstm import ChildSumCell, NaryCell, TreeLSTM, grow
from stillknows.agents.controllers.trees import parse, plant
from stillknows.agents.episode import bracketed
from stillknows.agents.lifetime import _source
from stillknows.envs.microworld import microworld_tasks
from stillknows.envs.tasks import Task
from stillknows.envs.text import text_space

WORDS = [f"w{number}" for number in range(12)]
TOKENIZER = WordTokenizer(WORDS, brackets=True)
nested = st.recursive(
    st.sampled_from(WORDS), lambda below: st.lists(below, min_size=2, max_size=4), max_leaves=12
)


def text(tree) -> str:
    return tree if isinstance(tree, str) else f"( {' '.join(map(text, tree))} )"


def words_of(tree) -> list[str]:
    return [tree] if isinstance(tree, str) else [word for part in tree for word in words_of(part)]


def binary(tree):
    """Join the first two until no node has more than two children."""
    if isinstance(tree, str):
        return tree
    parts = [binary(part) for part in tree]
    while len(parts) > 2:
        parts = [parts[:2], *parts[2:]]
    return parts


def tokens(tree) -> tuple[int, ...]:
    return tuple(TOKENIZER.encode(text(tree)))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def arrays(module):
    return {name: value.detach().double().numpy() for name, value in module.named_parameters()}


def child_sum(tree, words, p):
    """Equations 2 to 8 for one node after another; returns h and c of the root."""
    x, below = (words[tree], []) if isinstance(tree, str) else (0 * words[WORDS[0]], tree)
    states = [child_sum(part, words, p) for part in below]
    width = len(x)
    h_sum = sum((h for h, _ in states), np.zeros(width))
    i, o, u = np.split(
        (p["word.weight"] @ x + p["word.bias"])[: 3 * width] + p["below.weight"] @ h_sum, 3
    )
    w_forget = p["word.weight"][3 * width :] @ x + p["word.bias"][3 * width :]
    c = sigmoid(i) * np.tanh(u)
    for h_k, c_k in states:
        c = c + sigmoid(w_forget + p["forget.weight"] @ h_k) * c_k
    return sigmoid(o) * np.tanh(c), c


def two_ary(tree, words, p):
    """Equations 9 to 14 for one node after another."""
    x, below = (words[tree], []) if isinstance(tree, str) else (0 * words[WORDS[0]], tree)
    states = [two_ary(part, words, p) for part in below]
    width = len(x)
    hs = [states[k][0] if k < len(states) else np.zeros(width) for k in range(2)]
    both = np.concatenate(hs)
    i, o, u = np.split(
        (p["word.weight"] @ x + p["word.bias"])[: 3 * width] + p["below.weight"] @ both, 3
    )
    w_forget = p["word.weight"][3 * width :] @ x + p["word.bias"][3 * width :]
    c = sigmoid(i) * np.tanh(u)
    for k, (_, c_k) in enumerate(states):
        rows = p["forget.weight"][k * width : (k + 1) * width]
        c = c + sigmoid(w_forget + rows @ both) * c_k
    return sigmoid(o) * np.tanh(c), c


# --- Trees -------------------------------------------------------------------------------------


@given(nested)
def test_a_forest_holds_each_word_and_each_child_once(tree):
    forest = plant([parse(tokens(tree)), parse(tokens("w3"))])
    held = [TOKENIZER.words[word] for word in forest.words_M.tolist() if word != PAD]
    assert sorted(held) == sorted([*words_of(tree), "w3"])
    children = [child for level in forest.levels for child in level.child_E.tolist()]
    roots = forest.roots_B.tolist()
    assert sorted([*children, *roots]) == list(range(len(forest.words_M)))
    begin = 0
    for level in forest.levels:  # children stand lower than their parents
        assert (level.child_E < begin).all()
        begin += level.nodes
    assert begin == len(forest.words_M)


@given(nested)
def test_a_node_has_no_more_children_than_it_may(tree):
    torch.manual_seed(0)
    cell = NaryCell(4).double()
    vectors = torch.randn(len(TOKENIZER), 4, dtype=torch.float64)
    roots = []
    for given_tree in (parse(tokens(tree), arity=2), parse(tokens(binary(tree)))):
        assert all(len(node.children) in (0, 2) for level in given_tree for node in level)
        forest = plant([given_tree])
        roots.append(grow(cell, vectors[forest.words_M], forest)[0][forest.roots_B])
    torch.testing.assert_close(*roots)


def test_broken_brackets_are_mended():
    whole = parse(tokens(["w1", ["w2", "w3"]]))
    assert parse(tokens(["w1", ["w2", "w3"]])[:-2]) == whole
    assert parse((LEFT, *tokens("w1"), RIGHT, RIGHT)) == parse(tokens("w1"))
    assert len(plant([parse(())]).words_M) == 1
    assert len(plant([parse((LEFT, RIGHT))]).words_M) == 1


def test_a_sentence_without_a_tree_gets_a_balanced_one():
    assert bracketed("a b c .", "") == "( ( a b ) ( c . ) )"
    assert bracketed("a b .", "((a b) .)") == "( ( a b ) . )"
    assert bracketed("", "(a b)") == ""


class Plain(gymnasium.Env[str, str]):
    """Says one sentence, and gives no tree."""

    observation_space = action_space = text_space()

    def reset(self, *, seed=None, options=None):
        return "a b c .", {}


def test_the_report_says_whose_trees_were_read():
    gymnasium.register("PlainText-v0", entry_point=Plain)
    plain = Task("plain", "PlainText-v0", {}, {}, source="from nowhere")
    given_task = microworld_tasks(["route"])[0]
    assert _source(plain, True) == "from nowhere; read as balanced binary trees"
    assert _source(plain, False) == "from nowhere"
    assert _source(given_task, True) == "read as trees that the task gives"


# --- Cells -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("make", "plain"), [(ChildSumCell, child_sum), (NaryCell, two_ary)])
@given(trees=st.lists(nested, min_size=1, max_size=4))
def test_cells_are_their_equations_node_by_node(make, plain, trees):
    torch.manual_seed(0)
    cell = make(5).double()
    vectors = torch.randn(len(TOKENIZER), 5, dtype=torch.float64)
    vectors[PAD] = 0
    if make is NaryCell:
        trees = [binary(tree) for tree in trees]
    forest = plant([parse(tokens(tree), cell.arity) for tree in trees])
    h_MD, c_MD = grow(cell, vectors[forest.words_M], forest)
    words = {word: vectors[TOKENIZER.ids[word]].numpy() for word in WORDS}
    for tree, root in zip(trees, forest.roots_B.tolist(), strict=True):
        h, c = plain(tree, words, arrays(cell))
        np.testing.assert_allclose(h_MD[root].detach().numpy(), h, rtol=0, atol=1e-10)
        np.testing.assert_allclose(c_MD[root].detach().numpy(), c, rtol=0, atol=1e-10)


@given(nested, st.randoms(use_true_random=False))
def test_the_order_of_children_changes_nothing_for_child_sum(tree, draw: random.Random):
    def shuffled(part):
        return part if isinstance(part, str) else draw.sample([*map(shuffled, part)], len(part))

    torch.manual_seed(1)
    cell = ChildSumCell(4).double()
    vectors = torch.randn(len(TOKENIZER), 4, dtype=torch.float64)
    roots = []
    for each in (tree, shuffled(tree)):
        forest = plant([parse(tokens(each))])
        roots.append(grow(cell, vectors[forest.words_M], forest)[0][forest.roots_B])
    torch.testing.assert_close(*roots)


@pytest.mark.parametrize("make", [ChildSumCell, lambda width: NaryCell(width, 1)])
def test_a_chain_of_words_is_an_lstm(make):
    """With one child a node, both are an LSTM over the words from the lowest to the root."""
    torch.manual_seed(2)
    width, length = 6, 5
    cell = make(width).double()
    lstm = torch.nn.LSTM(width, width, batch_first=True).double()
    order = [0, 3, 2, 1]  # ours: i, o, u, f; PyTorch's: i, f, u, o
    word_w, word_b = (z.chunk(4) for z in (cell.word.weight, cell.word.bias))
    below = (*cell.below.weight.chunk(3), cell.forget.weight)
    with torch.no_grad():
        lstm.weight_ih_l0.copy_(torch.cat([word_w[k] for k in order]))
        lstm.weight_hh_l0.copy_(torch.cat([below[k] for k in order]))
        lstm.bias_ih_l0.copy_(torch.cat([word_b[k] for k in order]))
        lstm.bias_hh_l0.zero_()
    x = torch.randn(length, width, dtype=torch.float64)
    whole = torch.arange(1)
    levels = [
        plant([parse(tokens("w1"))]).levels[0]._replace(child_E=whole[:0]),
        *(
            plant([parse(tokens("w1"))])
            .levels[0]
            ._replace(parent_E=whole, child_E=whole + height, place_E=whole)
            for height in range(length - 1)
        ),
    ]
    chain = plant([parse(tokens("w1"))])._replace(levels=tuple(levels))
    h_MD, c_MD = grow(cell, x, chain)
    hidden, (_, cell_state) = lstm(x[None])
    torch.testing.assert_close(h_MD, hidden[0])
    torch.testing.assert_close(c_MD[-1:], cell_state[0])


@pytest.mark.parametrize("make", [ChildSumCell, NaryCell])
def test_gradients_of_cells_are_right(make):
    torch.manual_seed(3)
    cell = make(3).double()
    forest = plant([parse(tokens(["w1", ["w2", "w3"]])), parse(tokens("w4"))])
    x = torch.randn(len(forest.words_M), 3, dtype=torch.float64, requires_grad=True)
    weights = tuple(cell.parameters())
    assert torch.autograd.gradcheck(lambda x, *_: grow(cell, x, forest), (x, *weights))


# --- The controller ----------------------------------------------------------------------------


@pytest.mark.parametrize("cell", ["child_sum", "n_ary"])
def test_a_tree_reads_the_same_in_any_company(cell):
    torch.manual_seed(0)
    controller = TreeLSTM(len(TOKENIZER), width=16, cell=cell)
    short, long = "( w1 ( w2 w3 w4 ) )", "( ( w5 ( w6 w7 ) ) ( w8 w9 ) w1 w2 )"
    alone = controller.encode(TOKENIZER.batch([short]))
    together = controller.encode(TOKENIZER.batch([long, short]))
    torch.testing.assert_close(alone[0][0], together[0][1])
    torch.testing.assert_close(alone[1][0][0][0], together[1][0][0][1])
    other = controller.encode(TOKENIZER.batch(["( w1 w2 ( w3 w4 ) )"]))[0]
    assert (alone[0] - other).abs().max() > 1e-3  # the same words in another tree


def test_wrong_cells_are_told():
    with pytest.raises(ValueError, match="not one of child_sum, n_ary"):
        TreeLSTM(50, cell="tree")
    with pytest.raises(ValueError, match="arity=1 should be a whole number, at least 2"):
        TreeLSTM(50, cell="n_ary", arity=1)
