"""Baselines that compare samples: what they take out, and that they bend no gradient that they should not."""

import dataclasses

import numpy as np
import pytest

from lc_jax.rl import advantage
from lc_jax.rl.advantage import AdvantageSettings, advantages_and_returns
from lc_jax.rl.reader import AnswerForecasts, Reading


def test_leave_one_out_is_each_score_less_the_mean_of_the_others():
    scores = np.asarray([1.0, 2.0, 6.0, -1.0, 5.0, 7.0], np.float32)
    groups = np.asarray([0, 0, 0, 1, 2, 2])
    np.testing.assert_allclose(advantage.leave_one_out(scores, groups), [1 - 4, 2 - 3.5, 6 - 1.5, 0, -2, 2])


def test_what_the_truth_adds_to_all_samples_of_a_question_cancels():
    rng = np.random.default_rng(0)
    scores, groups = rng.normal(size=24).astype(np.float32), np.arange(24) // 8
    shifted = scores + np.asarray([3.0, -50.0, 7.0], np.float32)[groups]
    result = advantage.leave_one_out(shifted, groups)
    np.testing.assert_allclose(result, advantage.leave_one_out(scores, groups), atol=2e-5)
    np.testing.assert_allclose(np.bincount(groups, result), 0, atol=1e-4)


def test_expected_gradient_is_the_policys():
    """Over many draws, score-function gradients with and without the baseline agree: it takes out noise alone."""
    rng = np.random.default_rng(1)
    probs, reward = np.asarray([0.5, 0.3, 0.2]), np.asarray([1.0, -2.0, 4.0])
    exact = probs * (reward - probs @ reward)  # d E[reward] / d logits
    actions = rng.choice(3, size=(50_000, 4), p=probs)
    questions = 3 * rng.normal(size=(50_000, 1))  # some questions are harder than others
    scores = (reward[actions] + questions).ravel().astype(np.float32)
    baselined = advantage.leave_one_out(scores, np.arange(scores.size) // 4)
    scored = np.eye(3)[actions.ravel()] - probs  # d log p(action) / d logits
    np.testing.assert_allclose((baselined[:, None] * scored).mean(axis=0), exact, atol=0.02)
    assert np.var(baselined[:, None] * scored, axis=0).sum() < np.var(scores[:, None] * scored, axis=0).sum()


def test_top_answers_are_the_answers_with_the_highest_forecast():
    logits = np.asarray([[0.1, 2.0, 9.0], [0.0, 0.0, 0.0], [-3.0, -4.0, 5.0]], np.float32)
    mask = np.asarray([[True, True, False], [False] * 3, [True, True, False]])
    reading = Reading([["a", "b"], [], ["c", "d"]], AnswerForecasts(np.zeros(3, np.float32), logits, mask), 0)
    assert reading.top_answers() == ["b", "", "c"]


def test_statistics_of_groups_are_those_of_each_alone():
    rng = np.random.default_rng(0)
    rewards, values = rng.normal(size=(2, 6, 5)).astype(np.float32)
    mask = np.arange(5) < rng.integers(1, 6, size=6)[:, None]
    settings = AdvantageSettings(whiten_groups=3)
    result = advantages_and_returns(rewards, values, mask, settings)
    alone = dataclasses.replace(settings, whiten_groups=1)
    for start in (0, 2, 4):
        rows = slice(start, start + 2)
        expected = advantages_and_returns(rewards[rows], values[rows], mask[rows], alone)
        for a, b in zip(result, expected, strict=True):
            np.testing.assert_allclose(a[rows], b, rtol=1e-5, atol=1e-6)
    with pytest.raises(ValueError, match=r"whiten_groups=4 does not divide the rollout's 6 episodes"):
        advantages_and_returns(rewards, values, mask, dataclasses.replace(settings, whiten_groups=4))
