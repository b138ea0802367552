"""The published arithmetic, number by number (masked=False), on cases recorded from the published code."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lc_jax.rl import advantage, kl, loss, reward
from lc_jax.rl.reader import AnswerForecasts
from tests.recorded import load
from tests.rl.records import episodes_of, outcomes_of


@pytest.fixture(scope="module")
def maths(golden):
    return load(golden / "ppo_math.json")


@pytest.fixture(scope="module")
def rewards(golden):
    return load(golden / "lc_reward.json")


def close(actual, expected, **tolerance):
    np.testing.assert_allclose(np.asarray(actual), expected, **({"rtol": 1e-5, "atol": 1e-6} | tolerance))


def test_whiten(maths):
    for case in maths["whiten"]:
        everywhere = np.ones(case["values"].shape, bool)
        close(advantage.whiten(case["values"], everywhere, shift_mean=True), case["shift_mean_true"])
        close(advantage.whiten(case["values"], everywhere, shift_mean=False), case["shift_mean_false"])


def test_shaped_rewards(maths):
    for case in maths["shape_reward"]:
        lengths = (case["responses"] != case["pad_token_id"]).sum(axis=1)  # published: counts pad ids
        scores = case["rewards"].astype(np.float32)
        out = advantage.shape_rewards(
            scores, case["logprobs"], case["ref_logprobs"], lengths, case["kl_coef"], clamp=True
        )
        lengthy = lengths > 0  # an empty response: the published index wraps around to the last position
        close(out[lengthy], case["result"]["shaped_rewards"][lengthy])


def test_advantages(maths):
    for case in maths["estimate_advantage"]:
        settings = advantage.AdvantageSettings(
            gamma=case["gamma"], lam=case["lam"], whiten_rewards=case["whiten_rewards"], masked=False
        )
        mask = np.ones(case["rewards"].shape, bool)
        advantages, returns = advantage.advantages_and_returns(case["rewards"], case["values"], mask, settings)
        close(returns, case["result"]["returns"], rtol=2e-5, atol=2e-6)
        close(advantages, case["result"]["advantages"], rtol=2e-5, atol=5e-6)


def test_losses_and_gradients(maths):
    for case in maths["compute_loss"]:
        rollouts, mask = case["rollouts"], case["responses"] != case["pad_token_id"]
        episodes = episodes_of(
            mask.sum(axis=1), old_logprobs=rollouts["logprobs"], old_values=rollouts["values"],
            advantages=rollouts["advantages"], returns=rollouts["returns"],
        )  # fmt: skip
        np.testing.assert_array_equal(episodes.mask, mask)
        args, new = case["args"], case["policy_outputs"]
        settings = loss.LossSettings(args["cliprange"], args["cliprange_value"], args["vf_coef"], masked=False)

        def total(logprobs, values, episodes=episodes, new=new, settings=settings):
            count = loss.num_positions(episodes.mask, settings)
            policy, stats = loss.policy_loss(episodes, logprobs, new["entropies"], count, settings)
            value, more = loss.value_loss(episodes, values, count, settings)
            return policy + settings.value_coefficient * value, stats | more

        (value, stats), grads = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(new["logprobs"], new["values"])
        close(value, case["loss"])
        for name in set(stats) & set(case["stats"]):
            close(stats[name], case["stats"][name], rtol=1e-4)
        close(jnp.where(mask, grads[0], 0.0), np.where(mask, case["grad_wrt_new_logprobs"], 0.0))
        close(grads[1], case["grad_wrt_vpred"])


def test_kl_controllers(maths):
    for case in maths["kl_controller"]:
        first = case.get("kl_coef", case.get("init_kl_coef"))
        kind = "fixed" if case["kind"] == "fixed" else "adaptive"
        controller = kl.make(kind, first, case.get("target_kl", 6.0), case.get("k_beta", 0.1))
        values = [controller.coefficient]
        for observed in case["current_kls"]:
            controller = controller.observe(observed)
            values.append(controller.coefficient)
        np.testing.assert_allclose(values, case["values"], rtol=1e-6)


def ragged(logits, counts):
    """Published layout (truth, then the answers, per example) -> AnswerForecasts."""
    counts = counts or [1] * len(logits)
    starts, width = np.cumsum([0, *counts]), max(1, max(counts) - 1)
    answers, mask = np.zeros((len(counts), width), np.float32), np.zeros((len(counts), width), bool)
    for row, count in enumerate(counts):
        answers[row, : count - 1] = logits[starts[row] + 1 : starts[row + 1]]
        mask[row, : count - 1] = True
    return AnswerForecasts(np.asarray([logits[s] for s in starts[:-1]], np.float32), answers, mask)


def test_rewards(rewards):
    for case in rewards["apply_reward_operations"]:
        name = "decision_based" if case["rl_type"] == "decision_based_rl" else "factuality"
        forecasts = ragged(np.asarray(case["logits"], np.float32), case["n_samples_per_example"])
        settings = reward.RewardSettings(
            name, case["answer_extractor_normalization_lambda"], 0.0, case["cross_entropy_epsilon"]
        )
        close(reward.compute(forecasts, outcomes_of(forecasts), settings).total, case["total_rewards"], atol=1e-5)


def test_unstopped_responses(maths):
    for case in maths["post_reward"]:
        stops = case["truncate_token_ids"]
        stopped = np.isin(case["responses"], stops).any(axis=1) if stops else np.ones(len(case["responses"]), bool)
        out = reward.penalize_unstopped(case["rewards_in"], stopped, case["penalty_reward_value"])
        if case["rewards_in"].dtype == np.float32 and case["truncate_after"] is None:
            close(out, case["rewards_out"])
