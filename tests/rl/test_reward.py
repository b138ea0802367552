"""Rewards on forecasts small enough to compute by hand, and the outcomes that they take."""

import sys

import numpy as np
import pytest

from lc_jax.rl import outcomes, reward, verify
from lc_jax.rl.reader import AnswerForecasts
from lc_jax.rl.reward import RewardSettings
from lc_jax.types import Question
from tests.rl.records import outcomes_of

LN3 = np.log(3.0)  # p = 3/4; its negative is 1/4


def close(actual, expected):
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=1e-5, atol=1e-6)


def forecasts_of(truth, answers, mask):
    return AnswerForecasts(np.asarray(truth, np.float32), np.asarray(answers, np.float32), np.asarray(mask, bool))


# Truth 3/4, extracted with 3/4 and again, in other words, with 1/4; a wrong answer with 1/2.
# Truth 1/4, not extracted; wrong answers with 3/4 and, in other words, 1/2. What the mask hides is ignored.
FORECASTS = forecasts_of([LN3, -LN3], [[LN3, -LN3, 0], [LN3, 0, 40]], [[1, 1, 1], [1, 1, 0]])
OUTCOMES = outcomes_of(FORECASTS, [[0, 0, 1], [1, 1, 0]], groups=[4, 4], rates=[0.75, np.nan])


def test_a_cluster_has_the_mean_forecast_and_the_truth_its_own():
    close(reward.cluster_probabilities(FORECASTS, OUTCOMES), [[0.75, 0.5, 0, 0], [0.25, 0.625, 0, 0]])


@pytest.mark.parametrize(
    ("name", "part", "expected"),
    [
        ("log", "log_score", [np.log(0.75), np.log(0.25)]),
        # (1/4)^2 + (1/2)^2; (3/4)^2 + (5/8)^2
        ("brier", "brier_score", [-0.0625 - 0.25, -0.5625 - 0.390625]),
        ("spherical", "spherical_score", [0.75 / np.sqrt(0.5625 + 0.25), 0.25 / np.sqrt(0.0625 + 0.390625)]),
        # Thresholds from 1/2 to 1 count 4 times: the truth 1/16 x 4, the other 1/4 + 3 x (1/4 - 1/4);
        # the truth 9/16 + 3 x 1/4, the other 25/64 + 3 x (25/64 - 1/4). All halved.
        ("threshold_weighted", "threshold_score", [-0.5 * 0.5, -0.5 * (1.3125 + 0.390625 + 3 * 0.140625)]),
    ],
)
def test_scores_of_all_answers(name, part, expected):
    rewards = reward.compute(FORECASTS, OUTCOMES, RewardSettings(name, normalization=2.0, offset=1.0))
    close(rewards.parts[part], expected)
    close(rewards.parts["normalization"], [-2 * 0.25, -2 * 0.125])  # sums 5/4 and 7/8, each answer once
    close(rewards.total, np.asarray(expected) + [1 - 0.5, 1 - 0.25])
    assert rewards.total.dtype == np.float32


def test_scores_of_the_stated_confidence():
    # The top answers: right with 3/4, wrong with 3/4.
    rewards = reward.compute(FORECASTS, OUTCOMES, RewardSettings("rlcr", offset=2.0))
    close(rewards.parts["correctness"], [1, 0])
    close(rewards.parts["calibration"], [-0.0625, -0.5625])
    close(rewards.total, [2 + 1 - 0.0625, 2 - 0.5625])
    rewards = reward.compute(FORECASTS, OUTCOMES, RewardSettings("rewarding_doubt", offset=0.0))
    close(rewards.total, [np.log(0.75), np.log(0.25)])
    certain = forecasts_of([9], [[40]], [[1]])
    rewards = reward.compute(certain, outcomes_of(certain), RewardSettings("rewarding_doubt", offset=0.0, epsilon=0.01))
    close(rewards.total, [np.log(0.01)])  # wrong with certainty


def test_the_counterfactual_baseline_by_hand():
    """Three samples of each of two questions, right with 1/4, wrong with 3/4, right with 1/2; all wrong."""
    logits = np.asarray([-LN3, LN3, 0, -LN3, LN3, LN3])
    forecasts = forecasts_of(np.zeros(6), logits[:, None], np.ones((6, 1)))
    outcome = outcomes_of(forecasts, [[0], [1], [0], [1], [2], [1]], groups=[0, 0, 0, 1, 1, 1])
    settings = RewardSettings("rlcr", offset=5.0)
    others = reward.counterfactual(forecasts, outcome, settings, 3)
    # 1 if right, less the mean square error of 3/4 and 1/2 against 1, of 1/4 and 1/2 against 0, ...
    expected = [1 - (1 + 4) / 32, -(1 + 4) / 32, 1 - (9 + 1) / 32, -(9 + 9) / 32, -(1 + 9) / 32, -(1 + 9) / 32]
    close(others, 5 + np.asarray(expected))
    assert others.dtype == np.float32
    doubt = RewardSettings("rewarding_doubt", offset=0.0)
    close(reward.counterfactual(forecasts, outcome, doubt, 3)[:2], [np.log(0.75 * 0.5) / 2] * 2)
    mixed = RewardSettings("rlcr", offset=0.0, target="group_accuracy", target_weight=1.0)
    first = 1 - ((0.5 - 2 / 3) ** 2 + (0.75 - 2 / 3) ** 2) / 2  # two of three are right
    close(reward.counterfactual(forecasts, outcome, mixed, 3)[0], first)


@pytest.mark.parametrize(
    ("target", "weight", "expected"),
    [
        ("outcome", 0.5, [1, 0]),
        ("group_accuracy", 0.5, [0.5 + 0.25, 0.25]),  # one of two is right
        ("group_accuracy", 1.0, [0.5, 0.5]),
        ("empirical_rate", 0.5, [0.5 + 0.375, 0]),  # the second is unknown
    ],
)
def test_targets_mix_the_outcome_with_a_rate_of_the_question(target, weight, expected):
    settings = RewardSettings("rlcr", offset=0.0, target=target, target_weight=weight)
    close(reward.confidence_target(np.asarray([1, 0], np.float32), OUTCOMES, settings), expected)
    calibration = -np.square(0.75 - np.asarray(expected))
    close(reward.compute(FORECASTS, OUTCOMES, settings).total, np.asarray([1, 0]) + calibration)


def test_outcomes_are_the_words_of_the_question():
    rome = Question("q1", "Write.", "Capital?", "Rome", ("Roma", "the Eternal City"), empirical_rate=0.25)
    paris = Question("q2", "Write.", "Capital?", "Paris")
    answers = [["Milan", "roma", "The Milan.", "Eternal City", "Turin"], [], ["Lyon", "Paris"]]
    record = outcomes.of([rome, rome, paris], answers, 5)
    assert record.clusters.tolist() == [[1, 0, 1, 0, 2], [0] * 5, [1, 0, 0, 0, 0]]
    assert record.groups.tolist() == [0, 0, 1]
    np.testing.assert_array_equal(record.rates, np.asarray([0.25, 0.25, np.nan], np.float32))


@pytest.mark.parametrize("name", [name for name in reward.REWARDS if name != "factuality"])
def test_every_reward_passes_the_check_before_training(name):
    settings = RewardSettings(name, target="group_accuracy" if name in reward.OF_STATED_CONFIDENCE else "outcome")
    assert verify.Result.of(name, lambda: verify.proper_reward(settings)).verdict == "ok"


MODULE = """
from lc_jax.rl import reward

def half(forecasts, outcomes, settings):
    return reward.Rewards(forecasts.target_logits * 0 + 0.5, {})

def linear(forecasts, outcomes, settings):
    return reward.Rewards(reward.probability(forecasts.target_logits), {"linear": forecasts.target_logits})

def numbers(forecasts, outcomes, settings):
    return forecasts.target_logits
"""


def test_a_users_own_reward_is_imported_by_name(tmp_path, monkeypatch, caplog):
    (tmp_path / "own_rewards.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    close(reward.compute(FORECASTS, OUTCOMES, RewardSettings("own_rewards:half")).total, [0.5, 0.5])
    result = verify.Result.of("proper", lambda: verify.proper_reward(RewardSettings("own_rewards:linear")))
    assert result.verdict == "skipped"
    assert (
        result.details
    ) == "own_rewards:linear is not proper: where the true probability is 0.45, the best forecast is 0.05"
    assert result.details in caplog.text
    with pytest.raises(ValueError, match=r"own_rewards:numbers returns ndarray for 2 .*shape \(2,\)"):
        reward.compute(FORECASTS, OUTCOMES, RewardSettings("own_rewards:numbers"))
    sys.modules.pop("own_rewards")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "no_such_module:f"}, r"--config\.reward\.name=no_such_module:f: No module .* PYTHONPATH=FOLDER"),
        ({"name": "math:no_such"}, r"--config\.reward\.name=math:no_such: .*Give MODULE:FUNCTION"),
        ({"name": "brier", "target": "group_accuracy"}, r"reward\.target=group_accuracy is for .*rlcr.*target=outcome"),
        ({"target": "x"}, r"--config\.reward\.target=x: give one of outcome, group_accuracy, empirical_rate"),
        ({"threshold_low": 0.9, "threshold_high": 0.5}, r"threshold_high=0\.5: give a number above 0\.9"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        RewardSettings(**settings)
