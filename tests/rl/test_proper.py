"""Properness of every reward: the best statement on a grid is the truth, whatever the truth; or it is not, and why."""

import functools
import itertools

import numpy as np
import pytest

from lc_jax.rl import reward
from lc_jax.rl.reader import AnswerForecasts
from lc_jax.rl.reward import RewardSettings
from tests.rl.records import outcomes_of

GRID = np.arange(1, 20) / 20
OF_ANSWERS = ("decision_based", "log", "brier", "spherical", "threshold_weighted")


def logit(probs):
    probs = np.asarray(probs, np.float32)
    return np.log(probs / (1 - probs)).astype(np.float32)


def totals(name, statements, truth, **settings):
    """Rewards of N statements, probabilities [N, K] of all answers, where answer number `truth` is the true one."""
    logits = logit(statements)
    forecasts = AnswerForecasts(logits[:, truth], logits, np.ones(logits.shape, bool))
    clusters = [0 if k == truth else k + 1 for k in range(logits.shape[1])]
    outcomes = outcomes_of(forecasts, np.tile(clusters, (len(logits), 1)))
    return reward.compute(forecasts, outcomes, RewardSettings(name, **settings)).total


def best(statements, truth_probs, scores):
    """The statement with the highest expected score under the probabilities of the truths; scores are [K, N]."""
    return statements[(truth_probs @ scores).argmax()]


@pytest.mark.parametrize("name", OF_ANSWERS)
@pytest.mark.parametrize("num_answers", [2, 3])
def test_forecasts_of_all_answers_are_best_at_the_truth(name, num_answers):
    """Among all statements of a grid, those that do not sum to one included."""
    step = 10 if num_answers == 3 else 20
    values = np.arange(1, step) / step
    statements = np.asarray(list(itertools.product(values, repeat=num_answers)))
    scores = np.stack([totals(name, statements, truth) for truth in range(num_answers)])
    truths = statements[np.isclose(statements.sum(axis=1), 1)]
    assert len(truths) == (19 if num_answers == 2 else 36)
    for truth_probs in truths:
        np.testing.assert_allclose(best(statements, truth_probs, scores), truth_probs, atol=1e-6)


@pytest.mark.parametrize("name", ["brier", "threshold_weighted"])
def test_scores_that_add_up_over_answers_are_proper_without_the_normaliser(name):
    statements = np.asarray(list(itertools.product(np.arange(1, 10) / 10, repeat=3)))
    scores = np.stack([totals(name, statements, truth, normalization=0.0) for truth in range(3)])
    for truth_probs in ([0.1, 0.2, 0.7], [0.4, 0.3, 0.3]):
        np.testing.assert_allclose(best(statements, np.asarray(truth_probs), scores), truth_probs)


def test_scores_of_the_true_answer_alone_need_the_normaliser():
    """The log score is best where every answer has the highest probability there is; the spherical one knows no sum."""
    statements = np.asarray(list(itertools.product(np.arange(1, 10) / 10, repeat=3)))
    scores = np.stack([totals("log", statements, truth, normalization=0.0) for truth in range(3)])
    assert best(statements, np.asarray([0.4, 0.3, 0.3]), scores).tolist() == [0.9, 0.9, 0.9]
    one, twice = (totals("spherical", [[0.4 * n, 0.3 * n, 0.1 * n]], 0, normalization=0.0) for n in (1, 2))
    np.testing.assert_allclose(one, twice)


# --- the stated confidence in one answer -----------------------------------------------------------------------------


def stated_rewards(name, confidence, is_correct, settings=None, **outcomes):
    """Rewards of N paragraphs that state one answer with some confidence."""
    confidence, is_correct = np.broadcast_arrays(np.asarray(confidence, np.float32), is_correct)
    logits = logit(confidence)[:, None]
    forecasts = AnswerForecasts(np.where(is_correct, logits[:, 0], np.float32(-9)), logits, np.ones(logits.shape, bool))
    record = outcomes_of(forecasts, np.where(is_correct, 0, 1)[:, None], **outcomes)
    return reward.compute(forecasts, record, settings or RewardSettings(name, offset=0.0)).total


@pytest.mark.parametrize("name", reward.OF_STATED_CONFIDENCE)
def test_a_stated_confidence_is_best_at_the_probability_of_its_answer(name):
    right, wrong = (stated_rewards(name, GRID, is_correct) for is_correct in (True, False))
    for prob in GRID:
        assert GRID[(prob * right + (1 - prob) * wrong).argmax()] == prob


@pytest.mark.parametrize("name", reward.OF_STATED_CONFIDENCE)
@pytest.mark.parametrize("target", ["group_accuracy", "empirical_rate"])
def test_with_a_target_the_best_confidence_is_the_targets_mean(name, target):
    """Eight paragraphs for a question, three are right: 3/8 for all of them, mixed with their own outcomes."""
    is_correct = np.asarray([True] * 3 + [False] * 5)
    settings = RewardSettings(name, offset=0.0, target=target, target_weight=0.75)
    record = {"groups": np.zeros(8, int), "rates": np.full(8, 0.375)}
    grid = np.arange(1, 160) / 160
    scores = np.stack([stated_rewards(name, np.full(8, c), is_correct, settings, **record) for c in grid], axis=1)
    assert grid[scores[0].argmax()] == pytest.approx(0.25 + 0.75 * 0.375, abs=0.004)
    assert grid[scores[7].argmax()] == pytest.approx(0.75 * 0.375, abs=0.004)
    assert grid[scores.sum(axis=0).argmax()] == pytest.approx(0.375, abs=0.004)  # a paragraph that cannot know which


def test_an_unknown_empirical_rate_leaves_the_outcome():
    settings = RewardSettings("rlcr", offset=0.0, target="empirical_rate", target_weight=1.0)
    scores = stated_rewards("rlcr", [0.25, 0.25], [True, True], settings, rates=[np.nan, 0.25])
    np.testing.assert_allclose(scores, [1 - 0.75**2, 1.0])


def test_rlcr_prefers_the_more_probable_answer_and_rewarding_doubt_a_surely_wrong_one():
    """The best of (answer, confidence) together, where answers are right with 0.05, 0.4 or 0.7."""

    def choice(name):
        values = {
            (prob, c): prob * float(stated_rewards(name, [c], True)[0])
            + (1 - prob) * float(stated_rewards(name, [c], False)[0])
            for prob in (0.05, 0.4, 0.7)
            for c in GRID
        }
        return max(values, key=values.get)

    assert choice("rlcr") == (0.7, 0.7)
    assert choice("rewarding_doubt") == (0.05, 0.05)  # hence advantage.tokens=confidence


def test_no_answer_counts_as_a_wrong_one_of_confidence_one():
    forecasts = AnswerForecasts(np.zeros(1, np.float32), np.zeros((1, 2), np.float32), np.zeros((1, 2), bool))
    rewards = reward.compute(forecasts, outcomes_of(forecasts, [[0, 0]]), RewardSettings("rlcr", offset=0.0))
    assert rewards.parts["correctness"].tolist() == [0]
    assert rewards.total.tolist() == [-1]


# --- rewards of others that are not proper ---------------------------------------------------------------------------


def absolute_error(confidence, correct):
    """1 - |correct - confidence|, linear in the confidence."""
    return 1 - np.abs(correct - confidence)


def signed_confidence(confidence, correct):
    """A bet of the confidence: won if correct, lost if not."""
    return np.where(correct, confidence, -confidence)


def confident_correctness(confidence, correct):
    """Correctness times confidence."""
    return correct * confidence


def order_preserving(confidence, correct, others=((0.3, 0), (0.8, 1))):
    """CONQORD's alignment term (Tao et al. 2024, arXiv 2404.17287): products of differences to other responses."""
    return sum((confidence - c) * (correct - q) for c, q in others)


@pytest.mark.parametrize(
    ("score", "expected"),
    [
        (absolute_error, [0.05, 0.95]),
        (signed_confidence, [0.05, 0.95]),
        (confident_correctness, [0.95, 0.95]),
        (order_preserving, [0.05, 0.95]),
    ],
)
def test_rewards_that_are_linear_in_the_confidence_are_best_at_an_end(score, expected):
    """The best confidence is an end of the grid, for answers that are correct with 0.3 and with 0.7."""
    best = [
        GRID[(prob * score(GRID, np.ones(19)) + (1 - prob) * score(GRID, np.zeros(19))).argmax()] for prob in (0.3, 0.7)
    ]
    assert best == expected


def test_the_factuality_reward_asks_for_a_side_only():
    statements = np.stack([GRID, 1 - GRID], axis=1)
    scores = np.stack([totals("factuality", statements, truth) for truth in (0, 1)])
    expected = functools.reduce(np.add, (p * s for p, s in zip((0.7, 0.3), scores, strict=True)))
    assert set(np.flatnonzero(expected == expected.max())) == set(np.flatnonzero(GRID > 0.5))
