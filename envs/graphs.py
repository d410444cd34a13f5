"""Writes the episodes of the graph tasks: a graph is told edge by edge, then it is asked about.

(Graves et al. 2016, Nature 538:471, Methods, "Graph task descriptions" to "Inference".)

    generate(GraphTraversal(max_nodes=20, max_steps=5), keys_B)

All is told in triples: source, edge, destination. Each is a label, a number below 1000 in three
digits, hundreds first, and a digit is one-hot among 10 bits; a blank label is all 0. The phases:
description (the triples of the graph, in random order), query (triples with blanks), planning
(nothing; a traversal has none), answer (nothing is shown: the completed triples are asked for, one
a step). Inputs: 90 bits of a triple, a flag at the first step of every phase but the description,
a flag at every step of the answer. In the paper a reserved pattern ends an answer; here it ends
with the episode. A curriculum is a list of problems with growing dials.

This file knows no Gymnasium and nothing of who answers. Letters: N nodes or people, S triples, P
pairs, T steps, I inputs, O outputs.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import ClassVar, NamedTuple, TypeVar

import numpy as np

from stillknows.envs.problems import Episode, Problem

LABELS = 1000  # numbers of three digits
BLANK = -1
TRIES = 1000  # graphs that are drawn in search of a query

EITHER = {
    "parent": ("mother", "father"),
    "child": ("daughter", "son"),
    "spouse": ("wife", "husband"),
    "sibling": ("sister", "brother"),
}  # the primitive relations, to a woman and to a man

_CHAINS = {
    "father parent": ("paternal grandmother", "paternal grandfather"),
    "mother parent": ("maternal grandmother", "maternal grandfather"),
    "child child": ("granddaughter", "grandson"),
    "parent sibling": ("aunt", "uncle"),
    "sibling child": ("niece", "nephew"),
    "spouse parent": ("mother-in-law", "father-in-law"),
    "child spouse": ("daughter-in-law", "son-in-law"),
    "spouse sibling": ("spouse's sister", "spouse's brother"),
    "sibling spouse": ("brother's wife", "sister's husband"),
    "father parent parent": ("paternal great-grandmother", "paternal great-grandfather"),
    "mother parent parent": ("maternal great-grandmother", "maternal great-grandfather"),
    "child child child": ("great-granddaughter", "great-grandson"),
    "father parent sibling": ("paternal great-aunt", "paternal great-uncle"),
    "mother parent sibling": ("maternal great-aunt", "maternal great-uncle"),
    "parent sibling child": ("female cousin", "male cousin"),
    "parent sibling spouse": ("uncle's wife", "aunt's husband"),
    "sibling child child": ("great-niece", "great-nephew"),
    "parent parent parent parent": ("great-great-grandmother", "great-great-grandfather"),
    "parent parent parent sibling": ("great-great-aunt", "great-great-uncle"),
    "parent parent sibling child": ("parent's female cousin", "parent's male cousin"),
    "parent parent sibling spouse": ("great-uncle's wife", "great-aunt's husband"),
    "parent sibling child child": ("cousin's daughter", "cousin's son"),
    "sibling child child child": ("great-grandniece", "great-grandnephew"),
}

RELATIONS = {
    name: (*chain.split()[:-1], EITHER[chain.split()[-1]][male])
    for chain, names in _CHAINS.items()
    for male, name in enumerate(names)
}  # each a chain of primitive relations, or of words of `EITHER` where the sex is open

PRIMITIVES = [name for names in EITHER.values() for name in names]

EDGES = {name: label for label, name in (*enumerate(PRIMITIVES), *enumerate(RELATIONS, 10))}

T = TypeVar("T")
Indices = Sequence[int] | np.ndarray


class _Graph(NamedTuple):
    """Labels of nodes `[N]`, and of the edges between them or `BLANK` `[N, N]`."""

    nodes_N: np.ndarray
    edges_NN: np.ndarray

    def triples(self, sources_S: Indices, destinations_S: Indices) -> np.ndarray:
        """Return the triples of some edges, `[S, 3]`."""
        edges_S = self.edges_NN[sources_S, destinations_S]
        return np.stack([self.nodes_N[sources_S], edges_S, self.nodes_N[destinations_S]], axis=1)


class _Story(NamedTuple):
    """What is told and asked; triples are labels or `BLANK`, `[S, 3]`."""

    graph: _Graph
    query_S3: np.ndarray
    answer_S3: np.ndarray
    planning: int = 0


@dataclass(frozen=True, kw_only=True)
class GraphProblem(Problem):
    """A graph, a query, and triples that answer it (see the top of the file).

    To write an episode is a ValueError where `TRIES` graphs in a row have no query that fits.
    """

    @property
    def input_size(self) -> int:
        """Bits of a triple, and two flags."""
        return self.output_size + 2

    @property
    def output_size(self) -> int:
        """Bits of a triple: 3 labels of 3 digits of 10."""
        return 90

    @property
    def group_size(self) -> int:
        """Bits of a digit."""
        return 10

    @abstractmethod
    def _tell(self, generator: np.random.Generator) -> _Story:
        """Draw a graph and a query."""

    def write(self, generator: np.random.Generator) -> Episode:
        """Draw a graph, a query and the order of the triples."""
        graph, query_S3, answer_S3, planning = self._tell(generator)
        graph_S3 = generator.permutation(graph.triples(*np.nonzero(graph.edges_NN != BLANK)))
        shown = len(graph_S3) + len(query_S3)
        start = shown + planning
        steps = start + len(answer_S3)
        inputs_TI = np.zeros((steps, self.input_size), np.float32)
        inputs_TI[:shown, :-2] = _bits(np.concatenate([graph_S3, query_S3]))
        inputs_TI[[len(graph_S3), shown, start], -2] = 1
        inputs_TI[start:, -1] = 1
        targets_TO = np.zeros((steps, self.output_size), np.int8)
        targets_TO[start:] = _bits(answer_S3)
        return Episode(inputs_TI, targets_TO, np.arange(steps) >= start)


@dataclass(frozen=True, kw_only=True)
class RandomGraphProblem(GraphProblem):
    """A way through a random graph ("Random graph generation").

    The nodes are random points of the unit square, and each has edges to those nearest to it. The
    nodes have different labels, and so have the edges that leave a node; edges of different nodes
    may share one.

    Attributes:
        min_nodes, max_nodes: of the graph, each number as likely.
        min_out_degree, max_out_degree: edges that leave a node, each number as likely, but never
            more than there are other nodes.
        edge_labels: different ones in a graph at most; never more than nodes (the paper: as many).
        min_steps, max_steps: of the way, each number as likely.
    """

    min_nodes: int = 5
    max_nodes: int = 10
    min_out_degree: int = 2
    max_out_degree: int = 4
    edge_labels: int = LABELS
    min_steps: int = 1
    max_steps: int = 4

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_most("max_nodes", self.max_nodes, LABELS, "labels have three digits")
        others = f"there are no more others where min_nodes={self.min_nodes}"
        _at_most("min_out_degree", self.min_out_degree, self.min_nodes - 1, others)
        labels = f"the edges of a node differ and edge_labels={self.edge_labels}"
        _at_most("max_out_degree", self.max_out_degree, self.edge_labels, labels)

    def _graph(self, generator: np.random.Generator) -> _Graph:
        nodes = _between(generator, self.min_nodes, self.max_nodes)
        points_N2 = generator.random((nodes, 2))
        distances_NN = np.linalg.norm(points_N2[:, None] - points_N2, axis=-1)
        np.fill_diagonal(distances_NN, np.inf)
        labels = generator.choice(LABELS, min(nodes, self.edge_labels), replace=False)
        edges_NN = np.full((nodes, nodes), BLANK)
        for node, nearest_N in enumerate(distances_NN.argsort(axis=1)):
            most = min(self.max_out_degree, nodes - 1)
            degree = _between(generator, self.min_out_degree, most)
            edges_NN[node, nearest_N[:degree]] = generator.choice(labels, degree, replace=False)
        return _Graph(generator.choice(LABELS, nodes, replace=False), edges_NN)


@dataclass(frozen=True, kw_only=True)
class GraphTraversal(RandomGraphProblem):
    """A start and the edges to follow: the triples on the way are asked for ("Traversal").

    The query is the first triple without its destination, then the other edges alone. The way is a
    random walk. The paper's lessons grow from 3-10 nodes of out-degree 2-4 and 1 step to 10-40
    nodes of out-degree 2-6 and 1-20 steps (Extended Data Table 3). Dials: see `RandomGraphProblem`.
    """

    def _tell(self, generator: np.random.Generator) -> _Story:
        graph = self._graph(generator)
        walk = [int(generator.integers(len(graph.nodes_N)))]
        for _ in range(_between(generator, self.min_steps, self.max_steps)):
            walk.append(int(generator.choice(np.flatnonzero(graph.edges_NN[walk[-1]] != BLANK))))
        answer_S3 = graph.triples(walk[:-1], walk[1:])
        query_S3 = answer_S3.copy()
        query_S3[:, 2] = query_S3[1:, 0] = BLANK
        return _Story(graph, query_S3, answer_S3)


@dataclass(frozen=True, kw_only=True)
class ShortestPath(RandomGraphProblem):
    """A start and an end: the triples on the shortest path are asked for ("Shortest path").

    The query is one triple without its edge. Only pairs whose shortest path is unique are asked
    about, so that one answer is right. The paper takes any shortest path, shows at each step of the
    answer the triple before it, and trains with a mixture of the network's and a planner's choices.
    Its lessons grow from 5-10 nodes of out-degree 1-2 and 2 steps to 20-25 nodes of out-degree 2-6
    and 2-5 steps (Extended Data Table 5).

    Attributes:
        planning: steps between query and answer.
        others: see `RandomGraphProblem`.
    """

    _least: ClassVar[Mapping[str, int]] = {"planning": 0}

    min_nodes: int = 10
    max_nodes: int = 20
    max_out_degree: int = 3
    min_steps: int = 2
    planning: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        nodes = f"a shortest path meets no node twice and max_nodes={self.max_nodes}"
        _at_most("max_steps", self.max_steps, self.max_nodes - 1, nodes)

    def _tell(self, generator: np.random.Generator) -> _Story:
        steps = _between(generator, self.min_steps, self.max_steps)
        graph, path = _search(
            lambda: self._path(generator, steps),
            f"a unique shortest path of {steps} steps: lower max_steps or the out-degrees, or "
            "raise min_nodes",
        )
        query_S3 = np.array([[graph.nodes_N[path[0]], BLANK, graph.nodes_N[path[-1]]]])
        return _Story(graph, query_S3, graph.triples(path[:-1], path[1:]), self.planning)

    def _path(self, generator: np.random.Generator, steps: int) -> tuple[_Graph, list[int]] | None:
        """Return a graph and the nodes of a path in it, if it has one."""
        graph = self._graph(generator)
        adjacent_NN = (graph.edges_NN != BLANK).astype(int)
        walks = [np.eye(len(adjacent_NN), dtype=int)]  # how many of 0, 1, .. steps; 2: or more
        for _ in range(steps):
            walks.append(np.minimum(walks[-1] @ adjacent_NN, 2))
        pairs_P2 = np.argwhere((walks[steps] == 1) & ~np.any(walks[:steps], axis=0))
        if not len(pairs_P2):
            return None
        start, end = generator.choice(pairs_P2).tolist()
        path = [start]
        for left in reversed(range(steps)):  # exactly one neighbour is so near to the end
            path.append(int((adjacent_NN[path[-1]] * walks[left][:, end]).argmax()))
        return graph, path


@dataclass(frozen=True, kw_only=True)
class FamilyTree(GraphProblem):
    """A person and a relation: who that is, is asked for ("Inference").

    The triples are all primitive relations between people: person, "mother", the person's mother.
    The query is a person and one of `RELATIONS`, each as likely, whose chains are never told and
    must be learned from answers; the answer adds its destination. Only those are asked about who
    have exactly one such relative. The labels of edges (`EDGES`) are the same in every episode. The
    paper trains on random graphs, with 400 relations of 2 to 5 steps, and examines on one family
    tree; here every episode has a tree of its own. It grows from the relation's people by parents,
    children of couples, and spouses; nobody marries twice, or a relative.

    Attributes:
        min_people, max_people: of the tree, each number as likely.
        generations: of the tree at most; relations that take more are not asked for.
        max_children: of a couple.
        min_steps, max_steps: of the relation, from 2 to 4, each number as likely.
        planning: steps between query and answer.
    """

    _least: ClassVar[Mapping[str, int]] = {
        "min_people": 4,
        "generations": 2,
        "max_children": 2,
        "min_steps": 2,
        "planning": 0,
    }

    min_people: int = 10
    max_people: int = 15
    generations: int = 4
    max_children: int = 3
    min_steps: int = 2
    max_steps: int = 4
    planning: int = 10

    def __post_init__(self) -> None:
        super().__post_init__()
        _at_most("max_people", self.max_people, LABELS, "labels have three digits")
        most = min(4, self.generations, self.min_people - 2)
        room = f"of generations={self.generations} and min_people={self.min_people}"
        _at_most("max_steps", self.max_steps, most, f"a tree {room} is sure of no longer relation")

    def _tell(self, generator: np.random.Generator) -> _Story:
        steps = _between(generator, self.min_steps, self.max_steps)
        names = [
            name
            for name, chain in RELATIONS.items()
            if len(chain) == steps and np.ptp(_levels(chain)) < self.generations
        ]
        name = names[generator.integers(len(names))]
        tree, (person, relative) = _search(
            lambda: self._relatives(generator, RELATIONS[name]),
            f"somebody with exactly one {name}: lower max_steps, or change max_people",
        )
        answer_S3 = tree.triples([person], [relative])
        answer_S3[:, 1] = EDGES[name]
        query_S3 = np.where([True, True, False], answer_S3, BLANK)
        return _Story(tree, query_S3, answer_S3, self.planning)

    def _relatives(
        self, generator: np.random.Generator, chain: Sequence[str]
    ) -> tuple[_Graph, list[int]] | None:
        """Return a tree and somebody in it with exactly one such relative, if it has any."""
        edges_NN = self._tree(generator, _levels(chain))
        relatives = [np.isin(edges_NN, [EDGES[n] for n in EITHER.get(w, (w,))]) for w in chain]
        fits_NN = reduce(np.matmul, relatives)
        pairs_P2 = np.argwhere(fits_NN & (fits_NN.sum(axis=1, keepdims=True) == 1))
        if not len(pairs_P2):
            return None
        nodes_N = generator.choice(LABELS, len(edges_NN), replace=False)
        return _Graph(nodes_N, edges_NN), generator.choice(pairs_P2).tolist()

    def _tree(self, generator: np.random.Generator, levels: np.ndarray) -> np.ndarray:
        """Return primitive relations or `BLANK`, `[N, N]`, of a tree that has a path of levels."""
        people = _between(generator, self.min_people, self.max_people)
        parent_NN, spouse_NN = np.zeros((2, people, people), bool)  # [i, j]: is j that of i?
        male_N, level_N = generator.random(people) < 0.5, np.zeros(people, int)
        level_N[0] = -levels.min()
        moves = np.diff(levels).tolist()
        for new in range(1, people):
            if new <= len(moves):
                move, old = moves[new - 1], new - 1
            else:
                single_N, few_N = ~spouse_NN.any(axis=1), parent_NN.sum(axis=0) < self.max_children
                orphan_N = ~parent_NN.any(axis=1) & (level_N > 0)
                bears_N = male_N & ~single_N & few_N & (level_N + 1 < self.generations)
                places_3N = np.stack([orphan_N, single_N, bears_N])[:, :new]
                move, old = generator.choice(np.argwhere(places_3N)) - (1, 0)
            level_N[new] = level_N[old] + move
            if move == -1:  # a parent
                parent_NN[old, new] = True
            elif move == 0:  # a spouse, also a parent of the children that there are
                spouse_NN[old, new] = spouse_NN[new, old] = True
                parent_NN[:, new], male_N[new] = parent_NN[:, old], ~male_N[old]
            else:  # a child
                parent_NN[new] = spouse_NN[old]
                parent_NN[new, old] = True
        sibling_NN = (parent_NN @ parent_NN.T) & ~np.eye(people, dtype=bool)
        relatives = [parent_NN, parent_NN.T, spouse_NN, sibling_NN]  # in the order of `EITHER`
        return np.select(relatives, [2 * word + male_N for word in range(4)], BLANK)


def _levels(chain: Sequence[str]) -> np.ndarray:
    """Return the generations on a path over parents, spouses and children, from 0."""
    words = " ".join(word for name in chain for word in EITHER if name in (word, *EITHER[word]))
    path = words.replace("sibling", "parent child").split()
    return np.cumsum([0, *({"parent": -1, "spouse": 0, "child": 1}[word] for word in path)])


def _bits(labels_S3: np.ndarray) -> np.ndarray:
    """Return triples as bits, int8 `[S, O]`."""
    digits_S33 = labels_S3[..., None] // (100, 10, 1) % 10
    digits_S33[labels_S3 == BLANK] = BLANK
    ones: np.ndarray = digits_S33[..., None] == np.arange(10)
    return ones.reshape(len(labels_S3), -1).astype(np.int8)


def _between(generator: np.random.Generator, low: int, high: int) -> int:
    return int(generator.integers(low, high + 1))


def _at_most(name: str, value: int, most: int, why: str) -> None:
    if value > most:
        raise ValueError(f"{name}={value}: give at most {most}, as {why}.")


def _search(draw: Callable[[], T | None], what: str) -> T:
    """Return the first thing that is drawn, or say what was not found."""
    for _ in range(TRIES):
        if (found := draw()) is not None:
            return found
    raise ValueError(f"None of {TRIES} graphs has {what}.")
