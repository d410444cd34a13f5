"""Algorithmic tasks: every bit by plain loops, and three ways to be served the same episodes."""

import gymnasium
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode
from hypothesis import given, settings
from hypothesis import strategies as st

from stillknows.envs import ALGORITHMIC
from stillknows.envs.algorithmic import PROBLEMS, Algorithmic, AlgorithmicVectorEnv
from stillknows.envs.graphs import GraphProblem
from stillknows.envs.problems import KEYS, AssociativeRecall, Copy, RepeatCopy, generate

keys = st.integers(0, KEYS - 1)


@st.composite
def tasks(draw):
    """Return the name of a task and small dials of it."""
    task = draw(st.sampled_from(sorted(PROBLEMS)))

    def span(name, least, most):
        low, high = sorted(draw(st.tuples(*[st.integers(least, most)] * 2)))
        return {f"min_{name}": low, f"max_{name}": high}

    if issubclass(PROBLEMS[task], GraphProblem):
        return task, span("steps", 2, 3) | (
            span("people", 5, 7) if task == "family_tree" else span("nodes", 5, 7)
        )
    dials = {"bits": draw(st.integers(3, 6))}
    if task == "associative_recall":
        return task, {**dials, "vectors": draw(st.integers(1, 3)), **span("items", 2, 5)}
    dials |= span("length", 1, 5)
    if task == "copy":
        return task, {**dials, "sequences": draw(st.integers(1, 3))}
    return task, {**dials, **span("repeats", 1, 4), "normal_repeats": draw(st.integers(2, 5))}


def steps_of(episode):
    """Return what is shown and what is asked for at each step, as plain lists."""
    for row, target, marked in zip(*(part.tolist() for part in episode), strict=True):
        assert marked or not any(target)
        assert not (marked and any(row))
        yield row, (target if marked else None)


# --- Every bit is right ------------------------------------------------------------------------


@settings(max_examples=40)
@given(key=keys, bits=st.integers(1, 5), low=st.integers(1, 4), sequences=st.integers(1, 4))
def test_copy_asks_for_each_sequence_after_its_flag(key, bits, low, sequences):
    problem = Copy(bits=bits, min_length=low, max_length=low + 3, sequences=sequences)
    held, asked, finished = [], [], 0
    for row, target in steps_of(problem.episode(key)):
        if target is None:
            assert not asked or asked == held
            if asked:
                held, asked, finished = [], [], finished + 1
            if row[bits] == 0:
                held.append(row[:bits])
            else:
                assert row == [0] * bits + [1]
                assert low <= len(held) <= low + 3
        else:
            asked.append(target)
    assert asked == held
    assert finished + 1 == sequences


@settings(max_examples=40)
@given(key=keys, low=st.integers(1, 3), least=st.integers(1, 3), normal=st.integers(2, 7))
def test_repeat_copy_asks_as_often_as_the_count_says_and_for_an_end(key, low, least, normal):
    problem = RepeatCopy(
        bits=3,
        min_length=low,
        max_length=low + 2,
        min_repeats=least,
        max_repeats=least + 2,
        normal_repeats=normal,
    )
    steps = list(steps_of(problem.episode(key)))
    shown = [row for row, target in steps if target is None]
    asked = [target for _, target in steps if target is not None]
    sequence, flags = [row[:3] for row in shown[:-1]], [row[3:] for row in shown[:-1]]
    assert low <= len(sequence) <= low + 2
    assert all(flag == [0, 0] for flag in flags)
    assert shown[-1][:4] == [0, 0, 0, 1]
    numbers = list(range(1, normal + 1))
    repeats = round(shown[-1][4] * np.std(numbers) + np.mean(numbers))
    assert shown[-1][4] == pytest.approx((repeats - np.mean(numbers)) / np.std(numbers), abs=1e-6)
    assert least <= repeats <= least + 2
    expected = [[*vector, 0] for _ in range(repeats) for vector in sequence]
    assert asked == [*expected, [0, 0, 0, 1]]


@settings(max_examples=40)
@given(key=keys, bits=st.integers(2, 4), vectors=st.integers(1, 3), low=st.integers(2, 3))
def test_recall_asks_for_the_item_after_the_query(key, bits, vectors, low):
    problem = AssociativeRecall(bits=bits, vectors=vectors, min_items=low, max_items=low + 1)
    items, query, flags, asked = [], [], 0, []
    for row, target in steps_of(problem.episode(key)):
        if target is not None:
            asked.append(target)
        elif row[bits:] == [1, 0]:
            assert not any(row[:bits])
            items.append([])
        elif row[bits:] == [0, 1]:
            assert not any(row[:bits])
            assert flags == 0 or len(query) == vectors
            flags += 1
        else:
            assert row[bits:] == [0, 0]
            (query if flags else items[-1]).append(row[:bits])
    assert flags == 2
    assert low <= len(items) <= low + 1
    assert all(len(item) == vectors for item in items)
    assert all(items.count(item) == 1 for item in items)
    assert asked == items[items.index(query) + 1]


def test_all_different_items_are_found_when_there_are_no_more():
    problem = AssociativeRecall(bits=2, vectors=2, min_items=16, max_items=16)
    inputs_TI, _, _ = problem.episode(3)
    shown = [inputs_TI[at + 1 : at + 3, :2].tobytes() for at in np.flatnonzero(inputs_TI[:, 2])]
    assert len(set(shown)) == 16


def test_numbers_between_the_dials_are_drawn_alike_and_bits_are_fair():
    batch = generate(Copy(min_length=2, max_length=5), range(2000))
    lengths, counts = np.unique(batch.marked_BT.sum(axis=1), return_counts=True)
    assert lengths.tolist() == [2, 3, 4, 5]
    assert np.abs(counts / 2000 - 0.25).max() < 0.04
    assert batch.targets_BTO[batch.marked_BT].mean() == pytest.approx(0.5, abs=0.01)
    batch = generate(RepeatCopy(max_length=1), range(2000))
    counts = batch.inputs_BTI[:, 1, 9]
    assert counts.mean() == pytest.approx(0, abs=0.1)
    assert counts.std() == pytest.approx(1, abs=0.05)
    problem = AssociativeRecall(vectors=1, min_items=4, max_items=4)
    inputs_BTI = generate(problem, range(600)).inputs_BTI
    queries = [
        [(each[at] == each[9]).all() for at in (1, 3, 5, 7)].index(True) for each in inputs_BTI
    ]
    assert set(queries) == {0, 1, 2}
    assert np.abs(np.bincount(queries) / 600 - 1 / 3).max() < 0.07


# --- Three ways to be served -------------------------------------------------------------------


@settings(max_examples=30)
@given(task=tasks(), key=keys, more=st.lists(keys, max_size=3), spare=st.integers(0, 2))
def test_a_batch_is_its_episodes_and_then_zeros(task, key, more, spare):
    problem = Algorithmic(task[0], **task[1]).problem
    episodes = [problem.episode(each) for each in (key, *more)]
    batch = generate(problem, [key, *more], spare)
    longest = max(len(episode.marked_T) for episode in episodes)
    sizes = (len(episodes), longest + spare, problem.input_size, problem.output_size)
    assert batch.inputs_BTI.shape == (*sizes[:2], sizes[2])
    assert batch.targets_BTO.shape == (*sizes[:2], sizes[3])
    assert [part.dtype for part in batch] == [np.float32, np.int8, np.bool_, np.int64]
    for row, episode in enumerate(episodes):
        length = batch.lengths_B[row]
        assert length == len(episode.marked_T)
        for together, alone in zip(batch[:3], episode, strict=True):
            np.testing.assert_array_equal(together[row, :length], alone)
            assert not together[row, length:].any()


@settings(max_examples=30)
@given(task=tasks(), seed=st.integers(0, 10**6), rows=st.integers(1, 3), draws=st.randoms())
def test_plain_and_vector_environments_serve_what_the_batch_holds(task, seed, rows, draws):
    name, dials = task
    plain = [Algorithmic(name, **dials) for _ in range(rows)]
    vector = AlgorithmicVectorEnv(name, num_envs=rows, **dials)
    generators = [gymnasium.utils.seeding.np_random(seed + row)[0] for row in range(rows)]
    actions = np.random.default_rng(draws.randrange(10**6))
    for start in (seed, None):  # the next episodes without a seed are the same too
        batch = generate(plain[0].problem, [g.integers(KEYS) for g in generators], spare=1)
        pairs = [env.reset(seed=None if start is None else seed + b) for b, env in enumerate(plain)]
        observations, infos = vector.reset(seed=start)
        told = [info for _, info in pairs]
        np.testing.assert_array_equal(observations, [observation for observation, _ in pairs])
        check_infos(vector, infos, told)
        for step in range(batch.lengths_B.max()):
            np.testing.assert_array_equal(observations, batch.inputs_BTI[:, step])
            np.testing.assert_array_equal(infos["marked"], batch.marked_BT[:, step])
            wrong = actions.random(vector.action_space.shape) < 0.05
            bits = np.where(wrong, 1 - batch.targets_BTO[:, step], batch.targets_BTO[:, step])
            observations, rewards, ended, truncated, infos = vector.step(bits)
            for row in range(rows):
                if step >= batch.lengths_B[row]:
                    told[row] = {"marked": False, "step": batch.lengths_B[row]}
                    assert ended[row]
                    assert rewards[row] == 0
                    continue
                observation, reward, over, _, told[row] = plain[row].step(bits[row])
                assert (observation == observations[row]).all()
                assert plain[row].observation_space.contains(observation)
                assert (reward, over) == (rewards[row], ended[row])
                groups = wrong[row].reshape(-1, vector.problem.group_size or 1)
                right = np.mean([not group.any() for group in groups])
                assert reward == (right if batch.marked_BT[row, step] else 0)
                if batch.marked_BT[row, step]:
                    assert (told[row]["target"] == batch.targets_BTO[row, step]).all()
            check_infos(vector, infos, told)
            assert not truncated.any()
        assert ended.all()
        assert not observations.any()


def check_infos(vector, infos, told):
    """Assert that infos of a vector are those of its rows, joined as Gymnasium does."""
    expected = {}
    for row, info in enumerate(told):
        expected = vector._add_info(expected, info, row)
    assert set(infos) == set(expected)
    for name, column in expected.items():
        np.testing.assert_array_equal(infos[name], column)


@pytest.mark.parametrize("name", sorted(ALGORITHMIC))
def test_gymnasium_knows_and_accepts_them(name):
    check_env(gymnasium.make(name).unwrapped, skip_render_check=True)
    vector = gymnasium.make_vec(name, num_envs=2)
    assert isinstance(vector, AlgorithmicVectorEnv)
    assert vector.metadata["autoreset_mode"] is AutoresetMode.DISABLED
    observations, _ = vector.reset(seed=0)
    assert vector.observation_space.contains(observations)
    assert vector.action_space.contains(np.zeros((2, vector.problem.output_size), np.int8))


def test_the_reward_is_the_share_of_right_bits():
    env = Algorithmic("copy", bits=4, min_length=3, max_length=3, sequences=2)
    inputs, info = env.reset(seed=0)
    held, rewards, over = [], [], False
    while not over:
        asks = info["marked"]
        if asks:
            wrong = {3: [1, 1, 1, 1], 2: [0, 1, 1, 0], 1: [0, 0, 0, 0]}[len(held)]
            inputs, reward, over, _, info = env.step((held.pop(0) != wrong).astype(np.int8))
            rewards.append(reward)
        else:
            held += [] if inputs[4] else [inputs[:4]]
            inputs, reward, over, _, info = env.step(np.ones(4))
            assert reward == 0
        assert ("target" in info) == asks
    assert rewards == [0, 0.5, 1] * 2


def test_the_series_of_copies_is_of_fifty_vectors():
    env = gymnasium.make("stillknows/CopySeries-v0").unwrapped
    episode = env.problem.episode(0)
    assert episode.marked_T.sum() == 50
    assert len(episode.marked_T) == 10 * (5 + 1 + 5)


# --- What cannot be ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "dials", "message"),
    [
        ("cpoy", {}, "no algorithmic task 'cpoy'. Did you mean 'copy'"),
        ("copy", {"max_lenght": 3}, "copy has no dial 'max_lenght'. Did you mean 'max_length'"),
        ("copy", {"repeats": 3}, "no dial 'repeats'. Known: bits, min_length, max_length"),
        ("copy", {"bits": 0}, "bits=0: give a whole number of at least 1"),
        ("copy", {"bits": 2.0}, "bits=2.0: give a whole number"),
        ("copy", {"sequences": True}, "sequences=True: give a whole number"),
        ("copy", {"min_length": 21}, "min_length=21 is above max_length=20"),
        ("repeat_copy", {"min_repeats": 11}, "min_repeats=11 is above max_repeats=10"),
        ("repeat_copy", {"normal_repeats": 1}, "normal_repeats=1: give .* at least 2"),
        ("associative_recall", {"min_items": 1}, "min_items=1: give .* at least 2"),
        ("associative_recall", {"bits": 1, "vectors": 2}, "only 4 different items of 2 x 1 bits"),
    ],
)
def test_wrong_dials_are_told(task, dials, message):
    for make in (Algorithmic, AlgorithmicVectorEnv):
        with pytest.raises(ValueError, match=message):
            make(task, **dials)


def test_wrong_actions_seeds_and_steps_are_told():
    env, vector = Algorithmic("copy", bits=2), AlgorithmicVectorEnv("copy", 2, bits=2)
    for each, action in ((env, np.zeros(2)), (vector, np.zeros((2, 2)))):
        with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
            each.step(action)
        each.reset(seed=0)
        with pytest.raises(ValueError, match="numbers than 0 and 1: threshold probabilities"):
            each.step(action + 0.7)
        with pytest.raises(ValueError, match="give one bit an output"):
            each.step(action[..., :1])
        ended = np.array(False)
        while not np.all(ended):
            _, _, ended, _, _ = each.step(action)
        with pytest.raises(gymnasium.error.ResetNeeded, match="call reset"):
            each.step(action)
    with pytest.raises(ValueError, match="3 seeds for 2 rows"):
        vector.reset(seed=[1, 2, 3])
    with pytest.raises(ValueError, match="at least one key"):
        generate(Copy(), [])
