"""The surrogate reader: every forecast goes back to the answer it is of."""

import types

import numpy as np
import pytest

from lc_jax.inference import score
from lc_jax.rl.reader import Reader
from lc_jax.types import Question


def test_equal_readings_are_made_once_and_found_again(monkeypatch):
    batches = []

    def rewards(model, groups, *, batch_size):
        batches.extend(groups)
        return [np.asarray([sum(sequence) for sequence in group], np.float32) for group in groups]

    monkeypatch.setattr(score, "group_rewards", rewards)
    questions = [Question(f"q{i}", "", f"Q{i}?", "truth") for i in range(2)]
    forecaster = types.SimpleNamespace(
        encode=lambda question, paragraph, answer: [ord(c) for c in question.question + paragraph + answer],
        model=None,
        tokenizer=types.SimpleNamespace(name="forecaster"),
        batch_size=4,
    )
    # The same paragraph twice, an answer that is the truth, the same paragraph under another question.
    triples = [
        (questions[0], "z", "truth"), (questions[0], "y", "truth"), (questions[0], "z", "truth"),
        (questions[1], "z", "truth"), (questions[0], "z", "other"), (questions[0], "y", "other"),
    ]  # fmt: skip
    logits = Reader(None, forecaster)._forecast(triples)
    np.testing.assert_array_equal(logits, [sum(forecaster.encode(*triple)) for triple in triples])
    assert [len(group) for group in batches] == [2, 2, 1]
    assert Reader(None, forecaster)._forecast([]).shape == (0,)


def test_answers_truths_and_their_forecasts_keep_their_places(monkeypatch):
    """The truth's forecast comes first; more answers than K are dropped from the end and counted."""

    def rewards(model, groups, *, batch_size):
        return [np.asarray([sequence[0] for sequence in group], np.float32) for group in groups]

    monkeypatch.setattr(score, "group_rewards", rewards)
    questions = [Question(f"q{i}", "", f"Q{i}?", "truth") for i in range(3)]
    logits = {"truth": 10, "a": 1, "b": 2, "c": 3}
    forecaster = types.SimpleNamespace(
        encode=lambda question, paragraph, answer: [logits[answer]],
        model=None,
        tokenizer=types.SimpleNamespace(name="forecaster"),
        batch_size=4,
    )
    listed = [["b", "a", "c"], [], ["c"]]
    extractor = types.SimpleNamespace(max_answers=2, extract=lambda questions, paragraphs, seed: listed)
    reading = Reader(extractor, forecaster).read(questions, ["z"] * 3, seed=0)
    assert reading.answers == [["b", "a"], [], ["c"]]
    assert reading.num_dropped == 1
    assert reading.forecasts.target_logits.tolist() == [10, 10, 10]
    assert reading.forecasts.answer_logits.tolist() == [[2, 1], [0, 0], [3, 0]]
    assert reading.forecasts.answer_mask.tolist() == [[True, True], [False, False], [True, False]]


def test_a_reward_that_is_no_number_stops_the_run(monkeypatch):
    monkeypatch.setattr(score, "group_rewards", lambda model, groups, *, batch_size: [np.full(1, np.nan, np.float32)])
    forecaster = types.SimpleNamespace(
        encode=lambda question, paragraph, answer: [1],
        model=None,
        tokenizer=types.SimpleNamespace(name="runs/forecaster"),
        batch_size=4,
    )
    with pytest.raises(FloatingPointError, match="question 'q7': runs/forecaster computes nan"):
        Reader(None, forecaster)._forecast([(Question("q7", "", "Q?", "truth"), "z", "truth")])
