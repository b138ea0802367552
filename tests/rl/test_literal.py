"""PPO's arithmetic on arrays small enough to compute by hand, in the settings that run by default and in the others."""

import numpy as np
import pytest

from lc_jax.rl import advantage, kl, loss, reward, telemetry
from lc_jax.rl.advantage import AdvantageSettings, advantages_and_returns
from lc_jax.rl.reader import AnswerForecasts, Reading
from lc_jax.rl.reward import RewardSettings
from tests.rl.records import episodes_of, outcomes_of

LN2, LN3, LN4 = np.log([2.0, 3.0, 4.0])


def array(*rows):
    return np.asarray(rows, np.float32)


def mask_of(*lengths, width):
    return np.arange(width) < np.asarray(lengths)[:, None]


def close(actual, expected):
    np.testing.assert_allclose(np.asarray(actual), expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("gamma", "lam", "expected"),
    [
        # delta_t = r_t + V_{t+1} - V_t = 2, -2, 4, -2; with lambda 1 the sum of the rewards to come, less V_t.
        (1.0, 1.0, [2, 0, 2, -2]),
        # A_3 = -2, A_2 = 4 - 2/2 = 3, A_1 = -2 + 3/2 = -0.5, A_0 = 2 - 0.5/2 = 1.75
        (1.0, 0.5, [1.75, -0.5, 3, -2]),
        # delta_t = r_t + V_{t+1} / 2 - V_t = 1, -2, 2, -2; A_2 = 2 - 2/2, A_1 = -2 + 1/2, A_0 = 1 - 1.5/2
        (0.5, 1.0, [0.25, -1.5, 1, -2]),
        # gamma lambda = 1/4: A_2 = 2 - 2/4 = 1.5, A_1 = -2 + 1.5/4 = -1.625, A_0 = 1 - 1.625/4 = 0.59375
        (0.5, 0.5, [0.59375, -1.625, 1.5, -2]),
    ],
)
def test_gae(gamma, lam, expected):
    rewards, values = array([1, 0, 0, 2]), array([1, 2, 0, 4])
    close(advantage.gae(rewards, values, gamma, lam), [expected])


def test_whitening_looks_at_the_mask_alone():
    values, mask = array([0, 4, 50], [4, 0, 70]), mask_of(2, 2, width=3)
    # 0, 4, 4, 0: mean 2, population standard deviation 2.
    close(advantage.whiten(values, mask, shift_mean=True), [[-1, 1, 0], [1, -1, 0]])
    close(advantage.whiten(values, mask, shift_mean=False), [[1, 3, 0], [3, 1, 0]])


def test_whitening_everywhere():
    values, everywhere = array([0, 4, 0], [4, 0, 4]), np.ones((2, 3), bool)
    close(advantage.whiten(values, everywhere, shift_mean=True), [[-1, 1, -1], [1, -1, 1]])
    close(advantage.whiten(values, everywhere, shift_mean=False), [[1, 3, 1], [3, 1, 3]])


def test_the_score_is_at_the_last_token_and_kl_costs():
    logprobs = array([-1, -2, -3, -4], [-1, -1, -1, 0], [-2, -2, 0, 0])
    ref_logprobs = array([-2, -2, -1, -4], [-3, -1, -2, 0], [-1, -1, 0, 0])
    # log pi - log ref: 1, 0, -2, 0 | 2, 0, 1 | -1, -1; each nat costs 1/2.
    arguments = (array(10, 20, 30), logprobs, ref_logprobs, np.asarray([4, 3, 2]), np.float32(0.5))
    plain = [[-0.5, 0, 1, 10], [-1, 0, 20 - 0.5, 0], [0.5, 30 + 0.5, 0, 0]]
    clamped = [[-0.5, 0, 0, 10], [-1, 0, 20 - 0.5, 0], [0, 30, 0, 0]]
    close(advantage.shape_rewards(*arguments, clamp=False), plain)
    close(advantage.shape_rewards(*arguments, clamp=True), clamped)


REWARDS, VALUES, MASK = array([0, 4, 0], [4, 0, 4]), array([1, 1, 9], [2, 0, 9]), mask_of(2, 2, width=3)


def test_masked_advantages():
    """The default: padding enters neither statistic."""
    advantages, returns = advantages_and_returns(REWARDS, VALUES, MASK, AdvantageSettings())
    # Rewards 0, 4 | 4, 0 become 1, 3 | 3, 1. Sums of what comes: 4, 3 | 4, 1. Less the values 1, 1 | 2, 0: 3, 2 | 2, 1.
    close(returns, [[4, 3, 0], [4, 1, 0]])
    close(advantages, [[np.sqrt(2), 0, 0], [0, -np.sqrt(2), 0]])  # mean 2, variance (1 + 0 + 0 + 1) / 4


def test_advantages_over_all_positions():
    """The published arithmetic: padding counts as the rest does."""
    advantages, returns = advantages_and_returns(REWARDS, VALUES, MASK, AdvantageSettings(masked=False))
    # Rewards become 1, 3, 1 | 3, 1, 3; sums of what comes: 5, 4, 1 | 7, 4, 3; less the values: 4, 3, -8 | 5, 4, -6.
    close(returns, [[5, 4, 1], [7, 4, 3]])
    raw = np.asarray([[4, 3, -8], [5, 4, -6]])
    close(advantages, (raw - 2 / 6) / np.sqrt(166 / 6 - (2 / 6) ** 2))  # squares: 16 + 9 + 64 + 25 + 16 + 36


def test_rewards_that_are_not_whitened():
    settings = AdvantageSettings(gamma=0.5, lam=0.5, whiten_rewards=False)
    _, returns = advantages_and_returns(np.where(MASK, REWARDS, 0), VALUES, MASK, settings)
    # Row 0: delta 0 + 1/2 - 1 = -0.5, 4 - 1 = 3; A = -0.5 + 3/4 = 0.25, 3; and V = 1, 1.
    # Row 1: delta 4 + 0 - 2 = 2, 0 - 0 = 0; A = 2, 0; and V = 2, 0.
    close(returns, [[1.25, 4, 0], [4, 0, 0]])


def test_explained_variance_and_the_cost_of_kl_by_default():
    logprobs, ref = array([-1, -2, 8], [-1, 8, 8]), array([-1, -4, 8], [-1, 8, 8])
    values, settings = array([1, 1, 0], [3, 7, 7]), AdvantageSettings(whiten_rewards=False)
    episodes = episodes_of([2, 1], old_logprobs=logprobs, ref_logprobs=ref, old_values=values)
    out, explained_variance = advantage.estimate(episodes, array(4, 4), 1.0, settings)
    # Row 0: rewards 0, 4 - 2; row 1: 4. The critic said 1, 1 | 3: each is off by 1. Variance of 2, 2, 4: 8/9.
    close(out.returns, [[2, 2, 0], [4, 0, 0]])
    close(explained_variance, 1 - 1 / (8 / 9))
    turned = episodes_of([2, 1], old_logprobs=ref, ref_logprobs=logprobs, old_values=values)
    out, _ = advantage.estimate(turned, array(4, 4), 1.0, settings)
    close(out.returns, [[6, 6, 0], [4, 0, 0]])  # unclamped: a token less likely than in the reference earns 2


def test_scores_of_a_group_are_compared():
    episodes = episodes_of([2] * 4, old_values=np.zeros((4, 2), np.float32))
    scores, groups = array(1, 3, 10, 10), np.asarray([0, 0, 1, 1])
    out, _ = advantage.estimate(episodes, scores, 1.0, AdvantageSettings(whiten_rewards=False), groups)
    close(out.returns, [[-2, -2], [2, 2], [0, 0], [0, 0]])  # 1 - 3, 3 - 1, 10 - 10


@pytest.mark.parametrize(
    ("baseline", "groups"),
    [
        ("leave_one_out", [0, 0, 0, 1, 1, 1]),
        ("same_answer", [0, 1, 0, 2, 3, 4]),
    ],
)
def test_groups(baseline, groups):
    assert advantage.comparison_groups(baseline, 3, ["a", "b", "a", "a", "c", "b"]).tolist() == groups


@pytest.mark.parametrize("baseline", ["critic", "critic_with_answer", "counterfactual"])
def test_these_baselines_compare_no_scores(baseline):
    assert advantage.comparison_groups(baseline, 3, ["a"] * 6) is None


RATIOS, ENTROPIES = array([2, 0.25, 1, 8], [4, 0.5, 1, 1]), array([1, 2, 3, 9], [4, 9, 9, 9])
EPISODES = episodes_of(
    [3, 1],
    old_values=array([0, 0, 1, 0], [2, 1, 1, 1]),
    advantages=array([1, -1, 2, 5], [-1, 7, 7, 7]),
    returns=array([0, 3, 1, 4], [0, 0, 0, 0]),
)


@pytest.mark.parametrize(
    ("masked", "count", "total", "entropy", "squares"),
    [
        # max(-A rho, -A clip(rho, 1/2, 3/2)): -1.5, 0.5, -2 | 4. The first two are clipped, the last is not.
        (True, 4, -1.5 + 0.5 - 2 + 4, 1 + 2 + 3 + 4, LN2**2 + 2 * LN4**2),
        # At padding the ratio counts as 1: -5 | -7, -7, -7 more.
        (False, 8, 1 - 5 - 21, 10 + 4 * 9, LN2**2 + 2 * LN4**2),
    ],
)
def test_policy_loss(masked, count, total, entropy, squares):
    settings = loss.LossSettings(clip_ratio=0.5, clip_value=0.1, masked=masked)
    assert loss.num_positions(EPISODES.mask, settings) == count
    value, stats = loss.policy_loss(EPISODES, np.log(RATIOS), ENTROPIES, np.float32(count), settings)
    close(value, total / count)
    close(stats["policy/clipfrac"], 2 / count)
    close(stats["policy/ratio_deviation"], (1 + 0.75 + 0 + 3) / count)
    close(stats["policy/entropy"], entropy / count)
    close(stats["policy/approxkl"], 0.5 * squares / count)
    close(stats["returns/mean"], (0 + 3 + 1 + 0 + (0 if masked else 4)) / count)


@pytest.mark.parametrize(
    ("masked", "count", "total", "errors", "predicted"),
    [
        # V = 2, 2, 1.25 | 0 becomes 0.5, 0.5, 1.25 | 1.5. Errors squared 4, 1, 1/16 | 0; then 1/4, 6.25, 1/16 | 2.25.
        (True, 4, 4 + 6.25 + 1 / 16 + 2.25, 4 + 1 + 1 / 16 + 0, 2 + 2 + 1.25 + 0),
        # At padding V = 0 for R = 4, and three times 1 for 0.
        (False, 8, 12.5625 + 16 + 3, 5.0625 + 16 + 3, 5.25 + 3),
    ],
)
def test_value_loss(masked, count, total, errors, predicted):
    settings = loss.LossSettings(clip_ratio=0.1, clip_value=0.5, masked=masked)
    values = array([2, 2, 1.25, 0], [0, 1, 1, 1])
    value, stats = loss.value_loss(EPISODES, values, np.float32(count), settings)
    close(value, 0.5 * total / count)
    close(stats["val/error"], errors / count)
    close(stats["val/vpred"], predicted / count)
    close(stats["val/clipfrac"], 2 / count)
    close(stats["val/mean"], (0 + 0 + 1 + 2 + (0 if masked else 3)) / count)


def test_defaults_are_masked_unclamped_and_the_papers():
    assert AdvantageSettings() == AdvantageSettings(1.0, 1.0, True, 1, clamp_kl=False, masked=True)
    assert loss.LossSettings() == loss.LossSettings(0.2, 0.2, 0.1, masked=True)
    assert RewardSettings() == RewardSettings("decision_based", 5.0, 5.0, 1e-4)


def test_kl_estimates():
    # log pi - log ref: ln 2, -ln 2 | ln 4; at padding anything.
    episodes = episodes_of(
        [2, 1], old_logprobs=array([-1, -2, 5], [-1, 5, 5]), entropies=array([1, 2, 9], [6, 9, 9]),
        ref_logprobs=array([-1 - LN2, -2 + LN2, 0], [-1 - LN4, 0, 9]),
    )  # fmt: skip
    stats = telemetry.of_rollout(episodes, [True, False])
    close(stats["kl"], (LN2 - LN2 + LN4) / 2)
    # ref/pi - 1 - log(ref/pi): 1/2 - 1 + ln 2, 2 - 1 - ln 2 | 1/4 - 1 + ln 4
    close(stats["kl/k3"], (0.5 - 1 + LN2 + 2 - 1 - LN2 + 0.25 - 1 + LN4) / 2)
    close(stats["rollout/entropy"], (1 + 2 + 6) / 3)
    assert (stats["rollout/length"], stats["rollout/stop_rate"]) == (1.5, 0.5)


def test_kl_controllers():
    assert kl.make("fixed", 0.1, 6.0, 0.1).observe(100.0).coefficient == 0.1
    controller, coefficients = kl.make("adaptive", 0.1, 6.0, 0.1), []
    for observed in (12.0, 3.0, 6.6, 6.0):
        controller = controller.observe(observed)
        coefficients.append(controller.coefficient)
    # 1 + 0.1 x (0.2 at most, -0.2 at least, 6.6/6 - 1, 0)
    close(coefficients, np.cumprod([0.1 * 1.02, 0.98, 1.01, 1.0]))


def forecasts_of(truth, answers, mask):
    return AnswerForecasts(array(*truth), array(*answers), np.asarray(mask, bool))


def test_decision_based_reward():
    # p(y) = 1/2, 3/4, 0; forecasts 3/4 + 1/2, 1/4, none (what the mask hides is ignored).
    forecasts = forecasts_of([0, LN3, -50], [[LN3, 0], [-LN3, 40], [40, 40]], [[1, 1], [1, 0], [0, 0]])
    rewards = reward.compute(forecasts, outcomes_of(forecasts), RewardSettings())
    close(rewards.parts["log_score"], [-LN2, np.log(0.75), np.log(1e-4)])
    close(rewards.parts["normalization"], [-5 * 0.25, -5 * 0.75, -5 * 1.0])
    close(rewards.total, [5 - LN2 - 1.25, 5 + np.log(0.75) - 3.75, np.log(1e-4)])
    other = reward.compute(
        forecasts, outcomes_of(forecasts), RewardSettings(normalization=2.0, offset=0.0, epsilon=0.1)
    )
    close(other.total, [-LN2 - 0.5, np.log(0.75) - 1.5, np.log(0.1) - 2])


def test_factuality_reward_and_the_penalty_for_not_stopping():
    forecasts = forecasts_of([1e-3, 0.0, -1e-3], [[0], [0], [0]], [[0], [0], [0]])  # p just over, at, under 1/2
    rewards = reward.compute(forecasts, outcomes_of(forecasts), RewardSettings("factuality", offset=0.25))
    close(rewards.total, [1.25, 0.25, 0.25])
    close(rewards.parts["normalization"], [0, 0, 0])
    close(reward.penalize_unstopped(rewards.total, np.asarray([True, False, True])), [1.25, -1, 0.25])
    close(reward.penalize_unstopped(rewards.total, np.asarray([False, True, True]), -7.0), [-7, 0.25, 0.25])


def test_what_is_logged_of_a_reading():
    forecasts = forecasts_of([0, LN3, 0], [[LN3, 0], [-LN3, 40], [40, 40]], [[1, 1], [1, 0], [0, 0]])
    reading = Reading([["a", "b"], ["c"], []], forecasts, 2)
    stats = telemetry.of_reading(reading, reward.compute(forecasts, outcomes_of(forecasts), RewardSettings()))
    close(stats["reader/truth_prob"], (0.5 + 0.75 + 0.5) / 3)
    close(stats["reader/answers_per_paragraph"], (2 + 1 + 0) / 3)
    close(stats["reader/no_answer_rate"], 1 / 3)
    close(stats["reader/forecast_mass"], (1.25 + 0.25 + 0) / 3)
    close(stats["reader/confidence"], (0.75 + 0.25 + 0) / 3)
    close(stats["reward/normalization"], -5 * (0.25 + 0.75 + 1) / 3)
    close(stats["reward/log_score"], (-LN2 + np.log(0.75) - LN2) / 3)
    assert stats["reader/answers_dropped"] == 2
    assert stats["reader/confidence_histogram"] == [0, 0, 0.3333, 0, 0, 0, 0, 0.3333, 0, 0]
