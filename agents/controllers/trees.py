"""Trees of sentences, laid out to be computed level by level, many of different shapes at once.

A tree comes as bracketed tokens. This file knows no network. Letters: B trees, M nodes of all
trees, P nodes of one level, E children of these.
"""

from collections.abc import Sequence
from functools import lru_cache
from itertools import accumulate
from typing import NamedTuple

import torch
from torch import Tensor

from stillknows.agents.controllers.tokenizer import LEFT, PAD, RIGHT


class Level(NamedTuple):
    """Nodes of one height, next to each other in their forest, and their children.

    Attributes:
        nodes: how many there are (P).
        parent_E: to which of them each child belongs, int64.
        child_E: which node of the forest it is, int64.
        place_E: its place among its siblings, from 0, int64.
    """

    nodes: int
    parent_E: Tensor
    child_E: Tensor
    place_E: Tensor


class Forest(NamedTuple):
    """Trees of different shapes, the lowest nodes first.

    Attributes:
        words_M: the token of each node, `PAD` where it has none, int64.
        tree_M: the tree each belongs to, int64.
        roots_B: which node is each tree's root, int64.
        levels: leaves first.
    """

    words_M: Tensor
    tree_M: Tensor
    roots_B: Tensor
    levels: tuple[Level, ...]


class Node(NamedTuple):
    """A node of a tree: its token (`PAD` where it has none) and where its children stand.

    A place is a height above the lowest leaf below and a number among the tree's nodes of it.
    """

    word: int
    children: tuple[tuple[int, int], ...]


Tree = tuple[tuple[Node, ...], ...]  # the nodes of each height, leaves first; the root is last


@lru_cache(maxsize=65536)
def parse(tokens: tuple[int, ...], arity: int = 0) -> Tree:
    """Return the tree of bracketed tokens.

    A bracket around one thing is that thing; what is left open is closed at the end, and what
    stands outside of brackets is joined. No tokens are a leaf without a word.

    Args:
        tokens: words, `LEFT` and `RIGHT`.
        arity: the most children of a node (0: any number); of more, the first are joined until
            there are no more.
    """
    levels: list[list[Node]] = []
    open_nodes: list[list[tuple[int, int]]] = [[]]

    def stand(node: Node) -> tuple[int, int]:
        height = 1 + max((child for child, _ in node.children), default=-1)
        levels.extend([] for _ in range(height + 1 - len(levels)))
        levels[height].append(node)
        return height, len(levels[height]) - 1

    def join(children: list[tuple[int, int]]) -> tuple[int, int]:
        while arity and len(children) > arity:
            children = [stand(Node(PAD, tuple(children[:arity]))), *children[arity:]]
        return children[0] if len(children) == 1 else stand(Node(PAD, tuple(children)))

    for token in tokens:
        if token == LEFT:
            open_nodes.append([])
        elif token == RIGHT and len(open_nodes) > 1:
            closed = open_nodes.pop()
            open_nodes[-1].append(join(closed))
        elif token not in (PAD, RIGHT):
            open_nodes[-1].append(stand(Node(token, ())))
    while len(open_nodes) > 1:
        closed = open_nodes.pop()
        open_nodes[-1].append(join(closed))
    join(open_nodes[0])
    return tuple(map(tuple, levels))


def plant(trees: Sequence[Tree], device: torch.device | str = "cpu") -> Forest:
    """Lay trees out next to each other, level by level."""
    tallest = max(map(len, trees))
    counts = [[len(tree[h]) if h < len(tree) else 0 for tree in trees] for h in range(tallest)]
    ends = list(accumulate(count for level in counts for count in level))
    begins = [0, *ends[:-1]]  # of each tree's nodes of each height, heights first

    def place(tree: int, at: tuple[int, int]) -> int:
        return begins[at[0] * len(trees) + tree] + at[1]

    def whole(numbers: Sequence[int]) -> Tensor:
        return torch.tensor(numbers, dtype=torch.int64, device=device)

    words: list[int] = []
    owners: list[int] = []
    levels: list[Level] = []
    for height in range(tallest):
        parent: list[int] = []
        child: list[int] = []
        order: list[int] = []
        begin = len(words)
        for number, tree in enumerate(trees):
            for node in tree[height] if height < len(tree) else ():
                for sibling, at in enumerate(node.children):
                    parent.append(len(words) - begin)
                    child.append(place(number, at))
                    order.append(sibling)
                words.append(node.word)
                owners.append(number)
        levels.append(Level(len(words) - begin, whole(parent), whole(child), whole(order)))
    roots = [place(number, (len(tree) - 1, 0)) for number, tree in enumerate(trees)]
    return Forest(whole(words), whole(owners), whole(roots), tuple(levels))
