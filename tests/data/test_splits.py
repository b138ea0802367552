"""Splits of questions: disjoint, at the documented sizes, with examples that a prompt can hold."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lc_jax.data import splits
from lc_jax.types import Question

SIZES = splits.SplitSizes(num_shots=4, num_sft=3000, num_ppo=12000, num_validation=500, num_test=2000)


def questions(count, answers=7):
    return [Question(str(i), f"Where is {i}?", f"Where is {i}?", f"place {i % answers}") for i in range(count)]


@pytest.mark.parametrize(
    ("count", "sizes"),
    [
        (8, (1, 5, 5, 1, 1)),  # few: both training stages have the same questions
        (100, (4, 66, 66, 10, 20)),
        (1000, (4, 232, 464, 100, 200)),  # 696 for training: a third and the rest
        (31_614, (4, 3000, 12_000, 500, 2000)),
    ],
)
def test_sizes(count, sizes):
    sets = splits.split(questions(count), SIZES, seed=0)
    numbers = [len(part) for part in (sets.shots, sets.sft, sets.ppo, sets.validation, sets.test)]
    assert numbers == list(sizes)


@given(st.integers(8, 900), st.integers(0, 3))
def test_no_question_is_in_two_of_training_validation_and_test(count, seed):
    sets = splits.split(questions(count), SIZES, seed)
    names = [{q.question_id for q in part} for part in (sets.shots, {*sets.sft, *sets.ppo}, sets.validation, sets.test)]
    assert sum(map(len, names)) == len(set().union(*names)) == count
    assert all(names[1:])
    assert bool({*sets.sft} & {*sets.ppo}) == (len(names[1]) < SIZES.min_train)


def test_a_seed_gives_the_same_split_and_another_seed_another_one():
    first, again, other = (splits.split(questions(200), SIZES, seed) for seed in (0, 0, 1))
    assert first == again
    assert first.test != other.test


def test_too_few_questions_are_refused():
    with pytest.raises(ValueError, match=r"7 questions are too few .* give 8 or more"):
        splits.split(questions(7), SIZES, seed=0)


def test_examples_show_the_most_frequent_answers_once_each_and_no_placeholders():
    common = [Question(f"c{i}", "q", f"Common {i}?", "often") for i in range(6)]
    rare = [Question("r", "q", "Rare?", "seldom"), Question("b", "a {field}", "Brace?", "brace")]
    lines = [Question("l", "two\nlines", "Lines?", "lines")]
    assert [q.answer for q in splits._examples([*rare, *lines, *common], 4)] == ["often", "seldom"]


def test_duplicates_are_questions_of_the_same_words():
    texts = ["Capital of France?", "capital  of france", "Capital of Spain?", " Capital of France ."]
    assert splits.duplicates(Question(str(i), "", text, "a") for i, text in enumerate(texts)) == {1: 0, 3: 0}
