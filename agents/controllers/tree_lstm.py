"""Tree-LSTMs as the controller (Tai, Socher and Manning 2015, arXiv:1503.00075).

They read the tree of a sentence from the words up, many trees at once, level by level; an LSTM
that starts from the root speaks the answer. A node without a word has x = 0, one without children
h~ = 0 and c = i u. Letters: B sentences, L tokens, D hidden size, M nodes of all trees, P nodes of
one level, E children of these, N places of children, A tokens of an answer so far.
"""

import torch
from torch import Tensor, nn

from stillknows.agents.controllers.controller import Cache, WordController
from stillknows.agents.controllers.trees import Forest, Level, parse, plant
from stillknows.memory import expect


class ChildSumCell(nn.Module):
    """The child-sum Tree-LSTM (equations 2 to 8): the order of children does not matter.

    Args:
        width: hidden size (D).
    """

    arity = 0  # any number of children

    def __init__(self, width: int) -> None:
        super().__init__()
        self.word = nn.Linear(width, 4 * width)  # W and b of i, o, u, f
        self.below = nn.Linear(width, 3 * width, bias=False)  # U of i, o, u
        self.forget = nn.Linear(width, width, bias=False)  # U of f, one gate a child
        nn.init.ones_(self.word.bias.detach()[3 * width :])  # forget gates begin open

    def forward(
        self, x_PD: Tensor, h_ED: Tensor, c_ED: Tensor, level: Level
    ) -> tuple[Tensor, Tensor]:
        """Return h and c of a level, `[P, D]` each, from its words and its children."""
        word_P3D, forget_PD = self.word(x_PD).split([3 * x_PD.shape[1], x_PD.shape[1]], dim=1)
        sum_PD = torch.zeros_like(x_PD).index_add(0, level.parent_E, h_ED)
        forget_ED = torch.sigmoid(forget_PD[level.parent_E] + self.forget(h_ED))
        kept_PD = torch.zeros_like(x_PD).index_add(0, level.parent_E, forget_ED * c_ED)
        return _gates(word_P3D + self.below(sum_PD), kept_PD)


class NaryCell(nn.Module):
    """The N-ary Tree-LSTM (equations 9 to 14): each place of a child has weights of its own.

    Args:
        width: hidden size (D).
        arity: the most children of a node (N).
    """

    def __init__(self, width: int, arity: int = 2) -> None:
        super().__init__()
        self.arity = arity
        self.word = nn.Linear(width, 4 * width)
        self.below = nn.Linear(arity * width, 3 * width, bias=False)
        self.forget = nn.Linear(arity * width, arity * width, bias=False)  # U_kl, k rows, l columns
        nn.init.ones_(self.word.bias.detach()[3 * width :])

    def forward(
        self, x_PD: Tensor, h_ED: Tensor, c_ED: Tensor, level: Level
    ) -> tuple[Tensor, Tensor]:
        """Return h and c of a level, `[P, D]` each; a child that is not there is zeros."""
        nodes, width = x_PD.shape
        word_P3D, forget_PD = self.word(x_PD).split([3 * width, width], dim=1)
        at = (level.parent_E, level.place_E)
        blank_PND = x_PD.new_zeros(nodes, self.arity, width)
        h_PND, c_PND = (blank_PND.index_put(at, z_ED) for z_ED in (h_ED, c_ED))
        forget_PND = self.forget(h_PND.flatten(1)).view_as(h_PND) + forget_PD[:, None]
        kept_PD = (torch.sigmoid(forget_PND) * c_PND).sum(dim=1)
        return _gates(word_P3D + self.below(h_PND.flatten(1)), kept_PD)


def _gates(gates_P3D: Tensor, kept_PD: Tensor) -> tuple[Tensor, Tensor]:
    """`c = i u + kept`, `h = o tanh(c)`."""
    enter_PD, out_PD, new_PD = gates_P3D.chunk(3, dim=1)
    c_PD = torch.sigmoid(enter_PD) * torch.tanh(new_PD) + kept_PD
    return torch.sigmoid(out_PD) * torch.tanh(c_PD), c_PD


def grow(cell: ChildSumCell | NaryCell, x_MD: Tensor, forest: Forest) -> tuple[Tensor, Tensor]:
    """Return h and c of every node of a forest, `[M, D]` each.

    Args:
        cell: what joins children.
        x_MD: the words' vectors, 0 where a node has none.
        forest: where the nodes stand.
    """
    h_MD, c_MD = x_MD[:0], x_MD[:0]
    for level in forest.levels:
        here = slice(len(h_MD), len(h_MD) + level.nodes)
        h_PD, c_PD = cell(x_MD[here], h_MD[level.child_E], c_MD[level.child_E], level)
        h_MD, c_MD = torch.cat([h_MD, h_PD]), torch.cat([c_MD, c_PD])
    return h_MD, c_MD


class TreeLSTM(WordController):
    """A Tree-LSTM that reads and an LSTM that speaks.

    The vector of a sentence is the normed mean over all nodes of its tree.

    Args:
        vocabulary: number of tokens (V).
        width: hidden size (D).
        cell: "child_sum", or "n_ary": nodes with more than `arity` children become several.
        arity: the most children of a node of "n_ary".

    Raises:
        ValueError: if there is no such cell, or the arity is less than 2.
    """

    hears_trees = True

    def __init__(
        self, vocabulary: int, width: int = 64, cell: str = "child_sum", arity: int = 2
    ) -> None:
        super().__init__(vocabulary, width)
        if cell not in ("child_sum", "n_ary"):
            raise ValueError(f"cell={cell!r} is not one of child_sum, n_ary.")
        expect.whole(2, arity=arity)
        self.cell = ChildSumCell(width) if cell == "child_sum" else NaryCell(width, arity)
        self.lstm = nn.LSTM(width, width, batch_first=True)

    def encode(self, tokens_BL: Tensor, own_BL: Tensor | None = None) -> tuple[Tensor, Cache]:
        """Read bracketed sentences, one a text; the cache holds the roots' h and c, `[B, D]`."""
        rows = [tuple(row) for row in tokens_BL.tolist()]
        forest = plant([parse(row, self.cell.arity) for row in rows], tokens_BL.device)
        h_MD, c_MD = grow(self.cell, self.embedding(forest.words_M), forest)
        everywhere_BM = forest.tree_M == torch.arange(len(rows), device=h_MD.device)[:, None]
        weights_BM = everywhere_BM.to(h_MD) / everywhere_BM.sum(dim=1, keepdim=True)
        mean_BD = (weights_BM @ h_MD).to(self.norm_sentence.weight.dtype)
        vector_BD: Tensor = self.norm_sentence(mean_BD)
        return vector_BD, [(h_MD[forest.roots_B], c_MD[forest.roots_B])]

    def answer_logits(
        self, fused_BD: Tensor, text_BL: Tensor, cache: Cache, answer_BA: Tensor
    ) -> Tensor:
        """Score the next tokens, `[B, A + 1, V]`."""
        x_BSD = torch.cat([fused_BD[:, None], self.embedding(answer_BA)], dim=1)
        h_BD, c_BD = cache[0]
        hidden_BSD, _ = self.lstm(x_BSD, (h_BD[None], c_BD[None]))
        return self._as_logits(hidden_BSD)
