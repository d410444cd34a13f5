"""Graph tasks: the shown triples are read back, and every answer is found again by other means."""

import itertools
from collections import Counter, defaultdict
from typing import NamedTuple

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from kin import SEXES, Kin

from stillknows.envs.algorithmic import make_problem
from stillknows.envs.graphs import EDGES, RELATIONS, FamilyTree, GraphTraversal, ShortestPath
from stillknows.envs.problems import KEYS, Copy

keys = st.integers(0, KEYS - 1)
PROBLEMS = {
    "graph_traversal": GraphTraversal(),
    "shortest_path": ShortestPath(planning=3),
    "family_tree": FamilyTree(planning=4),
}


class Told(NamedTuple):
    graph: list
    query: list
    planning: int
    answer: list


def triple(bits):
    """Read 90 bits back as three numbers, None where blank."""
    labels = []
    for part in range(3):
        digits = [list(bits[30 * part + 10 * n : 30 * part + 10 * n + 10]) for n in range(3)]
        if not any(map(any, digits)):
            labels.append(None)
            continue
        assert all(sorted(digit) == [0] * 9 + [1] for digit in digits)
        labels.append(int("".join(str(digit.index(1)) for digit in digits)))
    return tuple(labels)


def read(episode):
    """Read an episode back by its flags: each step in its phase, marked in the last alone."""
    rows, targets, marked = (part.tolist() for part in episode)
    phases = [[]]
    for row, target, asks in zip(rows, targets, marked, strict=True):
        if row[90]:
            phases.append([])
        assert row[91] == asks
        assert not (asks and any(row[:90]))
        assert asks or not any(target)
        phases[-1].append((triple(row[:90]), triple(target), asks))
    graph, query, *planning, answer = phases
    assert [len({asks for _, _, asks in phase}) for phase in phases] == [1] * len(phases)
    assert [phase[0][2] for phase in phases] == [False] * (len(phases) - 1) + [True]
    idle = [shown for phase in planning for shown, _, _ in phase]
    assert len(planning) <= 1
    assert all(shown == (None, None, None) for shown in idle)
    shown = [[shown for shown, _, _ in phase] for phase in (graph, query)]
    assert all(None not in each for each in shown[0])
    assert all(None in each for each in shown[1])
    assert len(set(shown[0])) == len(shown[0])
    return Told(*shown, len(idle), [target for _, target, _ in answer])


def span(draw, name, low, high):
    """Draw the two dials of a range."""
    ends = sorted(draw(st.tuples(st.integers(low, high), st.integers(low, high))))
    return dict(zip((f"min_{name}", f"max_{name}"), ends, strict=True))


@st.composite
def dials_of_graphs(draw):
    nodes = span(draw, "nodes", 4, 12)
    degrees = span(draw, "out_degree", 1, 3)
    labels = draw(st.integers(degrees["max_out_degree"], 20))
    return {**nodes, **degrees, "edge_labels": labels}


def neighbours(told):
    """Return edges by node, and check what holds in every random graph."""
    edges = defaultdict(dict)
    for source, edge, destination in told.graph:
        assert source != destination
        assert edge not in edges[source]  # so that a walk is determined
        assert destination not in edges[source].values()
        edges[source][edge] = destination
    return edges


def check_dials(edges, dials):
    nodes = {*edges, *itertools.chain(*(each.values() for each in edges.values()))}
    assert nodes == set(edges)  # every node has edges that leave it
    assert dials["min_nodes"] <= len(nodes) <= dials["max_nodes"]
    most = min(dials["max_out_degree"], len(nodes) - 1)
    assert all(dials["min_out_degree"] <= len(each) <= most for each in edges.values())
    labels = set(itertools.chain(*edges.values()))
    assert len(labels) <= min(dials["edge_labels"], len(nodes))


# --- Every answer is right ---------------------------------------------------------------------


@settings(max_examples=60, deadline=None)
@given(key=keys, dials=dials_of_graphs(), data=st.data())
def test_a_traversal_asks_for_the_triples_on_the_walk(key, dials, data):
    steps = span(data.draw, "steps", 1, 6)
    told = read(GraphTraversal(**dials, **steps).episode(key))
    edges = neighbours(told)
    check_dials(edges, dials)
    (node, _, end), *others = told.query
    assert end is None
    assert all(source is destination is None for source, _, destination in others)
    way = []
    for _, edge, _ in told.query:
        way.append((node, edge, edges[node][edge]))
        node = edges[node][edge]
    assert told.answer == way
    assert told.planning == 0
    assert steps["min_steps"] <= len(way) <= steps["max_steps"]


def test_a_walk_takes_any_edge():
    dials = {"min_nodes": 3, "max_nodes": 3, "max_out_degree": 2, "min_steps": 60, "max_steps": 60}
    told = read(GraphTraversal(**dials).episode(1))
    assert set(told.answer) == set(told.graph)


def shortest(edges, start, end):
    """Return every shortest path as triples, by breadth-first search; none if there is no path."""
    seen, paths = {start}, [[(None, None, start)]]
    while paths and not (found := [path[1:] for path in paths if path[-1][2] == end]):
        tips = [(path, path[-1][2]) for path in paths]
        paths = [[*path, (a, edge, b)] for path, a in tips for edge, b in edges[a].items()]
        paths = [path for path in paths if path[-1][2] not in seen]
        seen |= {path[-1][2] for path in paths}
    return found


@settings(max_examples=60, deadline=None)
@given(key=keys, dials=dials_of_graphs(), planning=st.integers(0, 12), data=st.data())
def test_a_shortest_path_is_shortest_and_the_only_one(key, dials, planning, data):
    steps = span(data.draw, "steps", 1, 2)
    dials |= {"min_nodes": 6, "max_nodes": 6 + dials["max_nodes"]}
    told = read(ShortestPath(**dials, **steps, planning=planning).episode(key))
    edges = neighbours(told)
    check_dials(edges, dials)
    [(start, edge, end)] = told.query
    assert edge is None
    assert shortest(edges, start, end) == [told.answer]
    assert steps["min_steps"] <= len(told.answer) <= steps["max_steps"]
    assert told.planning == planning


def test_long_shortest_paths_are_found_too():
    for key in range(30):
        told = read(ShortestPath(min_steps=5, max_steps=5).episode(key))
        [(start, _, end)] = told.query
        assert shortest(neighbours(told), start, end) == [told.answer]
        assert len(told.answer) == 5


def test_a_node_is_joined_to_those_nearest_to_it():
    # Steps to the nearest node get no longer, so they end between two that are mutually nearest.
    for key in range(40):
        dials = {"min_nodes": 12, "max_nodes": 12, "min_out_degree": 1, "max_out_degree": 1}
        told = read(GraphTraversal(**dials).episode(key))
        after = {source: destination for source, _, destination in told.graph}
        for node in after:
            for _ in after:
                node = after[node]
            assert after[after[node]] == node


def check_family(kin, dials):
    """Assert that a family could be one, and is within its dials."""
    for person, name, other in kin.facts:
        assert kin.sexes[other] == SEXES[name]
        assert len([fact for fact in kin.facts if (fact[0], fact[2]) == (person, other)]) == 1
    for person in kin.people:
        me = {person}
        assert max(len(kin.of(me, names=[name])) for name in ("mother", "father")) <= 1
        assert all(person in kin.children({parent}) for parent in kin.parents(me))
        assert all(person in kin.parents({child}) for child in kin.children(me))
        assert kin.siblings(me) == kin.children(kin.parents(me)) - me
        assert len(kin.children(me)) <= dials["max_children"]
        # without a spouse: two children where a relation goes by siblings, one of an orphan
        assert kin.spouses(me) or len(kin.children(me)) <= 2
        for spouse in kin.spouses(me):
            assert kin.spouses({spouse}) == me
            assert kin.sexes[spouse] != kin.sexes[person]
            assert kin.children({spouse}) == kin.children(me)
            assert not kin.ancestors(me) & kin.ancestors({spouse})
    assert dials["min_people"] <= len(kin.people) <= dials["max_people"]
    levels = kin.generations().values()
    assert max(levels) - min(levels) < dials["generations"]


@st.composite
def dials_of_families(draw):
    steps = span(draw, "steps", 2, 4)
    most = steps["max_steps"]
    shape = {"generations": draw(st.integers(most, 6)), "max_children": draw(st.integers(2, 4))}
    return {**span(draw, "people", most + 2, 20), **steps, **shape}


@settings(max_examples=80, deadline=None)
@given(key=keys, dials=dials_of_families(), planning=st.integers(0, 12))
def test_a_family_tree_asks_for_the_only_such_relative(key, dials, planning):
    told = read(FamilyTree(**dials, planning=planning).episode(key))
    kin = Kin(told.graph)
    check_family(kin, dials)
    [(person, relation, blank)], [answer] = told.query, told.answer
    name = {label: name for name, label in EDGES.items()}[relation]
    assert kin.relatives(person, name) == {answer[2]}
    assert answer == (person, relation, answer[2])
    assert blank is None
    assert dials["min_steps"] <= len(RELATIONS[name]) <= dials["max_steps"]
    assert told.planning == planning


def test_every_relation_is_asked_for_as_often_as_others_of_its_length():
    names = {label: name for name, label in EDGES.items() if label >= 10}
    assert sorted(names.values()) == sorted(RELATIONS)
    assert len(names) + 8 == len(EDGES) == len(set(EDGES.values()))
    for steps in (2, 3, 4):
        problem = FamilyTree(min_steps=steps, max_steps=steps, generations=5, planning=0)
        asked = [read(problem.episode(key)).query[0][1] for key in range(500)]
        counts = Counter(names[relation] for relation in asked)
        assert set(counts) == {name for name, chain in RELATIONS.items() if len(chain) == steps}
        likely = 500 / len(counts)
        assert max(counts.values()) < likely + 4 * likely**0.5
        assert min(counts.values()) > likely - 4 * likely**0.5


# --- All three ---------------------------------------------------------------------------------


@settings(max_examples=20, deadline=None)
@given(task=st.sampled_from(sorted(PROBLEMS)), key=keys)
def test_equal_keys_give_equal_episodes(task, key):
    problem = PROBLEMS[task]
    once, again, other = (problem.episode(each) for each in (key, key, (key + 1) % KEYS))
    for part, same in zip(once, again, strict=True):
        np.testing.assert_array_equal(part, same)
    assert read(once) != read(other)
    assert [part.dtype for part in once] == [np.float32, np.int8, np.bool_]


@pytest.mark.parametrize("task", sorted(PROBLEMS))
def test_one_of_each_group_is_asked_for(task):
    problem = PROBLEMS[task]
    assert (problem.input_size, problem.output_size, problem.group_size) == (92, 90, 10)
    assert Copy().group_size is None
    _, targets_TO, marked_T = problem.episode(5)
    groups = targets_TO.reshape(len(targets_TO), -1, problem.group_size).sum(axis=2)
    assert (groups == marked_T[:, None]).all()


@pytest.mark.parametrize(
    "problem",
    [
        GraphTraversal(min_nodes=12, max_nodes=12),
        ShortestPath(min_nodes=12, max_nodes=12),
        FamilyTree(min_people=12, max_people=12),
    ],
)
def test_labels_differ_and_are_drawn_anew_and_the_order_is_random(problem):
    told = [read(problem.episode(key)) for key in range(60)]
    nodes = [{node for source, _, end in each.graph for node in (source, end)} for each in told]
    assert all(len(each) == 12 for each in nodes)
    drawn = Counter(itertools.chain(*nodes))
    assert min(drawn) < 20
    assert max(drawn) > 980
    assert max(drawn.values()) < 8  # of 60, where 0.72 is the mean
    for each in told:
        runs = [node for node, _ in itertools.groupby(source for source, _, _ in each.graph)]
        assert len(runs) > 12  # not node by node
    first = [each.graph[0][0] == min(source for source, _, _ in each.graph) for each in told]
    assert 0 < sum(first) < 20


def test_numbers_between_the_dials_are_drawn_alike():
    told = [read(ShortestPath(planning=0).episode(key)) for key in range(600)]
    lengths = Counter(len(each.answer) for each in told)
    assert sorted(lengths) == [2, 3, 4]
    assert all(abs(count / 600 - 1 / 3) < 0.08 for count in lengths.values())
    dials = {"min_nodes": 8, "max_nodes": 8, "min_out_degree": 2, "max_out_degree": 4}
    degrees = Counter()
    for key in range(100):
        edges = neighbours(read(GraphTraversal(**dials).episode(key)))
        degrees.update(len(each) for each in edges.values())
    assert sorted(degrees) == [2, 3, 4]
    assert all(abs(count / 800 - 1 / 3) < 0.08 for count in degrees.values())


@pytest.mark.parametrize(
    ("task", "dials", "message"),
    [
        ("graph_traversal", {"bits": 8}, "no dial 'bits'. Known: min_nodes, max_nodes"),
        ("graph_traversal", {"min_steps": 0}, "min_steps=0: give .* at least 1"),
        ("graph_traversal", {"min_nodes": 11}, "min_nodes=11 is above max_nodes=10"),
        ("graph_traversal", {"max_nodes": 1001}, "max_nodes=1001: give at most 1000, as labels"),
        ("graph_traversal", {"min_nodes": 2}, "min_out_degree=2: give at most 1.*min_nodes=2"),
        ("graph_traversal", {"edge_labels": 3}, "max_out_degree=4: give at most 3.*edge_labels=3"),
        ("shortest_path", {"planning": -1}, "planning=-1: give .* at least 0"),
        ("shortest_path", {"max_steps": 20}, "max_steps=20: give at most 19.*max_nodes=20"),
        ("family_tree", {"min_steps": 1}, "min_steps=1: give .* at least 2"),
        ("family_tree", {"max_people": 1001}, "max_people=1001: give at most 1000"),
        ("family_tree", {"max_children": 1}, "max_children=1: give .* at least 2"),
        ("family_tree", {"max_steps": 5}, "max_steps=5: give at most 4"),
        ("family_tree", {"generations": 3}, "max_steps=4: give at most 3.*generations=3"),
        ("family_tree", {"min_people": 5}, "max_steps=4: give at most 3.*min_people=5"),
    ],
)
def test_wrong_dials_are_told(task, dials, message):
    with pytest.raises(ValueError, match=message):
        make_problem(task, **dials)


def test_graphs_without_a_query_are_told():
    near = {"min_nodes": 3, "max_nodes": 3, "min_out_degree": 2}  # every node is one step away
    problem = ShortestPath(**near, max_steps=2)
    with pytest.raises(ValueError, match="a unique shortest path of 2 steps: lower max_steps or"):
        problem.episode(0)
