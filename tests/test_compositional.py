"""Streams with a known graph of re-use: dials, one answer for a life, and what could transfer."""

from collections import Counter
from itertools import pairwise

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

from stillknows.agents.configuration import compose_config
from stillknows.agents.lifetime import episodes_of, tasks_of
from stillknows.agents.reports import lives, report
from stillknows.envs.compositional import ID, Composed, compositional_tasks
from stillknows.envs.measures.reuse import Edge, ideal_transfer, reuse_graph
from stillknows.envs.order import arrange, returning
from stillknows.envs.tasks import Task


def makes(program, items):
    for word in program:
        items = {
            "behead": lambda items: items[1:],
            "rotate": lambda items: items[1:] + items[:1],
            "sum": lambda items: [sum(items) % 10],
            "largest": lambda items: sorted(items)[-1:],
            "sort": sorted,
            "reverse": lambda items: items[::-1],
            "raise": lambda items: [(item + 1) % 10 for item in items],
            "double": lambda items: [item * 2 % 10 for item in items],
            "mirror": lambda items: [9 - item for item in items],
        }[word](items)
    return " ".join(map(str, items))


def heard(sentence):
    """Return whose list a sentence tells, and the list."""
    words = sentence.split()
    at = words.index("is")
    return " ".join(words[3:at]), list(map(int, words[at + 1 : -1]))


def needs_and_gives(tasks):
    return [task.needs for task in tasks], [task.gives for task in tasks]


def test_the_graph_and_the_ideal_worked_out_by_hand():
    needs = [("a", "b"), ("a", "c"), ("c", "a", "d"), (), ("e",)]
    gives = [("a", "b"), ("c", "a"), ("d",), (), ()]
    assert reuse_graph(needs, gives) == [Edge(0, 1, "a"), Edge(1, 2, "c"), Edge(1, 2, "a")]
    np.testing.assert_allclose(ideal_transfer(needs, gives), [0, 1 / 2, 2 / 3, np.nan, 0])


@pytest.mark.parametrize("count", [5, 20, 100])
def test_every_question_has_one_answer_for_the_whole_life(count):
    """Who hears the first story of each task, and no other, knows all that is not told again."""
    dials = {"overlap": 0.6, "contradiction": 0.5, "returns": 0.2, "life": 7}
    tasks = compositional_tasks(count, 10, **dials)
    known, where, carried = {}, {}, 0
    for number, task in enumerate(tasks):
        for arguments, episode in ((task.train, 10 * number), (task.exam, 10 * number + 3)):
            env = Composed(**arguments)
            for key in range(4):
                story = env.tell(key, episode, {})
                lists = {}
                for step, (sentence, answer) in enumerate(
                    zip(story.sentences, story.answers, strict=True)
                ):
                    if answer is None:
                        name, items = heard(sentence)
                        lists[name] = items
                        if key == 0 and episode == 10 * number:
                            where[name] = (episode, step, items)
                        continue
                    program, _, who = sentence[len("what is ") : -len(" ?")].partition(" of ")
                    items = lists[who] if who in lists else known[who]
                    assert answer.target == makes(program.split(), items)
                    assert answer.carried == (who not in lists)
                    ((told, at),) = answer.supports
                    if answer.carried:
                        assert where[who] == (told, at, items)
                        carried += 1
                    else:
                        assert (told, heard(story.sentences[at])) == (episode, (who, items))
        known |= {name: list(map(int, text.split())) for name, text in task.train["told"].items()}
    assert carried > 0
    for task in tasks:  # nothing was told anew that had to be remembered
        for name, (items, *_) in task.train["recalled"].items():
            assert known[name] == list(map(int, items.split()))


def test_dials_turn_what_they_say():
    none = compositional_tasks(20, 10, overlap=0.0, facts=3)
    graph = reuse_graph(*needs_and_gives(none))
    assert not any(task.train["recalled"] for task in none)
    assert all(edge.what.startswith("skill") for edge in graph)
    shares = []
    for overlap in (0.0, 0.5, 1.0):
        ideals = [
            np.mean(ideal_transfer(*needs_and_gives(compositional_tasks(20, 10, **dials)))[1:])
            for dials in ({"overlap": overlap, "life": life, "facts": 3} for life in range(10))
        ]
        shares.append(np.mean(ideals))
    assert shares[0] < 0.35 < shares[1] < 0.8 < shares[2] == 1.0
    for contradiction, low, high in ((0.0, 0, 0), (1.0, 15, 60)):
        tasks = compositional_tasks(20, 10, overlap=0.8, contradiction=contradiction, facts=3)
        told = Counter(name for task in tasks for name in task.train["told"])
        assert low <= sum(times - 1 for times in told.values()) <= high
    names = [t.name for t in compositional_tasks(40, 10, overlap=0.3, returns=0.5)]
    assert len(set(names)) == 40
    assert 10 < sum("(" in name for name in names) < 30
    assert compositional_tasks(9, 10, life=4) == compositional_tasks(9, 10, life=4)
    assert compositional_tasks(9, 10, life=4) != compositional_tasks(9, 10, life=5)


def test_the_report_puts_the_ideal_beside_what_was_known():
    head = {"event": "lifetime", "name": "both", "seed": 0, "protocol": "identity hidden"}
    head |= {"schema": 1, "setting": {}}
    head |= {"tasks": ["a", "b"], "needs": [["x"], ["x", "y"]], "gives": [["x"], ["y"]]}
    events = [head]
    for after, task, right in ((0, 0, 0), (0, 1, 1), (1, 0, 4), (1, 1, 2), (2, 0, 3), (2, 1, 4)):
        columns = {"correct": [1] * right + [0] * (4 - right), "carried": [0] * 4}
        exam = {"event": "examination", "arm": "agent", "after": after, "task": task, **columns}
        events.append(exam)
    life = lives.summarise(events)
    assert life.ideal == [0.0, 0.5]
    ideal, before, later = report._transfer_table({"both": [life]}).splitlines()[2:]
    assert ideal.endswith("| 0.000 | 0.500 |")
    assert before.endswith("| 0.000 | 0.500 |")
    assert later.endswith("| 1.000 | 1.000 |")


def test_a_task_that_returns_needs_nothing_new():
    tasks = compositional_tasks(60, 10, overlap=0.5, contradiction=0.3, returns=0.5, life=2)
    ideal = ideal_transfer(*needs_and_gives(tasks))
    again = [share for task, share in zip(tasks, ideal, strict=True) if "(" in task.name]
    assert again
    assert set(again) == {1.0}
    names = [task.name.partition(" ")[0] for task in tasks]
    assert all(name != after for name, after in pairwise(names))  # it was away


def test_it_is_an_environment_with_declared_words_and_disjoint_examinations():
    task = compositional_tasks(6, 10, overlap=0.7)[-1]
    check_env(gymnasium.make(ID, **task.train).unwrapped)
    rows = gymnasium.make_vec(ID, num_envs=3, vectorization_mode="vector_entry_point", **task.train)
    observations, _ = rows.reset(seed=3)
    for row in range(3):
        alone = Composed(**task.train, first_episode=row, stride=3)
        assert alone.reset(seed=3 + row)[0] == observations[row]
    known, told = set(rows.unwrapped.vocabulary), []
    for arguments in (task.train, task.exam):
        stories = [Composed(**arguments).tell(key, 0, {}) for key in range(300)]
        for story in stories:
            assert set(" ".join(story.sentences).split()) <= known
            assert all(set(a.target.split()) <= known for a in story.answers if a)
        told.append({tuple(s for s in story.sentences if s[-1] == ".") for story in stories})
    assert not told[0] & told[1]


@pytest.mark.parametrize(
    ("dials", "words"),
    [
        ({"count": 0}, "count=0 is out of range: it goes from 1"),
        ({"skills": 10}, "skills=10 is out of range: it goes from 1 to 9"),
        ({"facts": 200}, "facts=200 is out of range"),
        ({"overlap": 1.5}, "overlap=1.5 is out of range: it goes from 0 to 1"),
        ({"local": 0}, "local=0 is out of range"),
        ({"facts": 2.5}, "facts=2.5 is no whole number: give one"),
        ({"overlap": "half"}, "overlap='half' is no number: give one"),
        ({"episodes": 0}, "episodes=0 is out of range: it goes from 1"),
        ({"episodes": -5}, "episodes=-5 is out of range: it goes from 1"),
        ({"episodes": [float("nan")] * 5}, "episodes=nan is no whole number: give one"),
        ({"episodes": None}, "episodes=None is no whole number: give one"),
        ({"episodes": [10, 10]}, r"episodes=\[10, 10\] for count=5 tasks: give one, or one each"),
    ],
)
def test_a_wrong_dial_is_one_sentence(dials, words):
    with pytest.raises(ValueError, match=words):
        compositional_tasks(**{"count": 5, "episodes": 10, **dials})


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"skills": ["sorts"]}, "no skill 'sorts'. Did you mean 'sort'"),
        ({"skills": []}, "skills=0 is out of range: it goes from 1 to 9"),
        ({"split": "test"}, "split='test': choose train or exam"),
        ({"local": 9}, "local=9 is out of range: it goes from 1 to 8"),
        ({"questions": 0}, "questions=0 is out of range"),
        ({"told": {"ada": ""}}, "ada has the list '': give at least 1 digits"),
        ({"told": {"ada": "1"}, "skills": ["behead"]}, "ada has the list '1': give at least 2"),
        ({"recalled": {"ada": ("x y", 0, 0)}}, "ada has the list 'x y': give at least 1 digits"),
    ],
)
def test_a_task_that_cannot_be_is_one_sentence(settings, words):
    with pytest.raises(ValueError, match=words):
        Composed(**{"skills": ["sort"], "told": {}, "recalled": {}, **settings})


def test_streams_are_shuffled_and_return():
    options = ["stream=reasoning", "stream.tasks.tasks=[kinship,programs,induction]"]
    plain = tasks_of(compose_config(options))
    config = compose_config([*options, "stream.cycles=2", "stream.order_seed=3"])
    config.stream.episodes = [320, 640, 960]
    tasks, episodes = tasks_of(config), episodes_of(config)
    assert [task.name for task in plain] == ["kinship", "programs", "induction"]
    assert [task.name for task in tasks[3:]] == [f"{task.name} (2)" for task in tasks[:3]]
    assert [task.train for task in tasks[3:]] == [task.train for task in tasks[:3]]
    assert sorted(task.name for task in tasks[:3]) == sorted(task.name for task in plain)
    of = dict(zip(["kinship", "programs", "induction"], (320, 640, 960), strict=True))
    assert episodes == [of[task.name.removesuffix(" (2)")] for task in tasks]
    orders = {tuple(arrange("abc", order_seed=seed)) for seed in range(40)}
    assert len(orders) == 6
    assert arrange("abc", 2) == list("abcabc")


def test_the_compositional_stream_has_the_tasks_asked_for():
    config = compose_config(["stream=compositional", "stream.tasks.count=20"])
    tasks = tasks_of(config)
    assert len(tasks) == len(episodes_of(config)) == 20
    starts = {3200 * number for number in range(20)}
    recalled = [fact for task in tasks for fact in task.train["recalled"].values()]
    assert recalled
    assert {episode for _, episode, _ in recalled} <= starts


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["stream.tasks.tasks=[kinship,code,kinship]"], "names kinship 2 times: name it once"),
        (["stream.tasks.tasks=[]"], "has no tasks: name some"),
        (["stream.cycles=0"], "stream.cycles=0: give a whole number of at least 1"),
        (["stream.order_seed=1.5"], "order_seed=1.5: give a whole number from 0 on, or null"),
        (["stream.order_seed=-1"], "order_seed=-1: give a whole number from 0 on, or null"),
    ],
)
def test_a_stream_that_cannot_be_is_told(options, words):
    config = compose_config(["stream=reasoning", *options])
    with pytest.raises(ValueError, match=words):
        tasks_of(config)


def test_what_builds_on_itself_keeps_its_order():
    with pytest.raises(ValueError, match="need what earlier ones told; leave orders"):
        tasks_of(compose_config(["stream=compositional", "order=1"]))


def test_only_tasks_that_return_are_renamed():
    tasks = [Task(name, "id", {}, {}) for name in ("a", "b", "a", "a")]
    assert [task.name for task in returning(tasks)] == ["a", "b", "a (2)", "a (3)"]
