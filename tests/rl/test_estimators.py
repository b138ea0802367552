"""Expected gradients of estimators and KL terms, enumerated on toys whose gradient is known."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lc_jax.rl import advantage, kl, loss, reward
from lc_jax.rl.advantage import AdvantageSettings
from lc_jax.rl.reader import AnswerForecasts
from tests.rl.records import episodes_of, outcomes_of

PROBS = np.asarray([0.5, 0.3, 0.2])
REWARD = np.asarray([1.0, -2.0, 4.0])
GRADIENT = PROBS * (REWARD - PROBS @ REWARD)  # d E[reward] / d logits
PLAIN = AdvantageSettings(whiten_rewards=False, whiten_advantages=False)


def scored(actions):
    """d log p(action) / d logits, [N, 3]."""
    return np.eye(3)[actions] - PROBS


def expected_gradient(baseline, settings, num_samples=3, top_answers=lambda actions: ["x"] * len(actions)):
    """Sum over all groups of samples of one question of P(group) * mean of A d log p, in one-token responses."""
    total = np.zeros(3)
    for group in itertools.product(range(3), repeat=num_samples):
        actions = np.asarray(group)
        scores = REWARD[actions].astype(np.float32)
        groups = advantage.comparison_groups(baseline, num_samples, top_answers(actions))
        episodes = episodes_of(np.ones(num_samples), old_logprobs=np.zeros((num_samples, 1), np.float32))
        episodes, _ = advantage.estimate(episodes, scores, 0.0, settings, groups, baseline)
        total += PROBS[actions].prod() * (episodes.advantages * scored(actions)).mean(axis=0)
    return total


@pytest.mark.parametrize(("baseline", "factor"), [("leave_one_out", 1.0), ("group_mean", 2 / 3), ("critic", 1.0)])
def test_the_expected_gradient_is_that_of_the_expected_score(baseline, factor):
    """The mean of all three members takes a third of each score from itself; a critic that says 0, nothing."""
    np.testing.assert_allclose(expected_gradient(baseline, PLAIN), factor * GRADIENT, atol=1e-6)


def test_same_answer_leaves_the_choice_of_the_answer_alone():
    """Actions 0 and 1 state the same answer, the correct one. The gradient is that of E[score | answer] within it."""
    gradient = expected_gradient("same_answer", PLAIN, 3, lambda actions: ["b" if a == 2 else "a" for a in actions])
    assert gradient[2] == pytest.approx(0, abs=1e-7)
    assert gradient[0] == pytest.approx(-gradient[1])
    assert gradient[0] > 0
    # A sample of the pair differs from another one only by chance: the weight is P(another sample has the same answer).
    within = np.asarray([0.5, 0.3]) / 0.8
    exact = within * (REWARD[:2] - within @ REWARD[:2])
    at_least_one = 1 - 0.2**2
    np.testing.assert_allclose(gradient[:2], 0.8 * at_least_one * exact, atol=1e-6)


@pytest.mark.parametrize("rate", [0.1, 0.9])
@pytest.mark.parametrize("name", ["rlcr", "rewarding_doubt"])
def test_the_counterfactual_baseline_leaves_the_gradient_of_confidences_exact(name, rate):
    """Each of three samples is right with `rate` and says, whatever it answers, `rate`, 0.3 or 0.6 with PROBS."""
    statements, settings = np.asarray([rate, 0.3, 0.6]), reward.RewardSettings(name, offset=0.0)

    def record(confidence, correct):
        logits = np.log(confidence / (1 - confidence)).astype(np.float32)[:, None]
        forecasts = AnswerForecasts(np.zeros(len(confidence), np.float32), logits, np.ones(logits.shape, bool))
        return forecasts, outcomes_of(forecasts, 1 - np.asarray(correct)[:, None])

    total = np.zeros(3)
    for correct in itertools.product((0, 1), repeat=3):
        weight = rate ** sum(correct) * (1 - rate) ** (3 - sum(correct))
        for group in itertools.product(range(3), repeat=3):
            forecasts, outcome = record(statements[list(group)], correct)
            scores = reward.compute(forecasts, outcome, settings).total
            scores -= reward.counterfactual(forecasts, outcome, settings, 3)
            total += weight * PROBS[list(group)].prod() * (scores[:, None] * scored(list(group))).mean(axis=0)
    right, wrong = (reward.compute(*record(statements, [v] * 3), settings).total for v in (1, 0))
    expected = rate * right + (1 - rate) * wrong
    np.testing.assert_allclose(total, PROBS * (expected - PROBS @ expected), atol=1e-6)
    assert total[0] > 0  # to what is calibrated


def test_the_groups_standard_deviation_bends_the_gradient():
    settings = AdvantageSettings(whiten_rewards=False, whiten_advantages=False, group_std=True)
    gradient = expected_gradient("group_mean", settings)
    cosine = gradient @ GRADIENT / np.linalg.norm(gradient) / np.linalg.norm(GRADIENT)
    assert cosine < 0.999


@pytest.mark.parametrize(("by_std", "grows"), [(False, False), (True, True)])
def test_the_groups_standard_deviation_makes_a_calibrated_policy_overconfident(by_std, grows):
    """An event happens with 0.8. Four samples say 0.8 or 0.99, each as often, and take Brier scores."""
    statements, gradient = np.asarray([0.8, 0.99]), 0.0
    for outcome, prob in ((1, 0.8), (0, 0.2)):
        for group in itertools.product((0, 1), repeat=4):
            actions = np.asarray(group)
            scores = -np.square(outcome - statements[actions]).astype(np.float32)
            compared = advantage.compare(scores, np.zeros(4, int), "group_mean", by_std)
            gradient += prob * 0.5**4 * (compared * (actions - 0.5)).mean()
    assert (gradient > 0) == grows


def test_comparisons_by_hand():
    scores, groups = np.asarray([1.0, 2.0, 6.0, 5.0], np.float32), np.asarray([0, 0, 0, 1])
    np.testing.assert_allclose(advantage.compare(scores, groups, "group_mean", False), [-2, -1, 3, 0])
    std = np.sqrt((4 + 1 + 9) / 3)
    np.testing.assert_allclose(
        advantage.compare(scores, groups, "group_mean", True), np.asarray([-2, -1, 3, 0]) / std, rtol=1e-6
    )
    np.testing.assert_allclose(advantage.compare(scores, groups, "leave_one_out", False), [-3, -1.5, 4.5, 0])


# --- KL --------------------------------------------------------------------------------------------------------------

REF = np.asarray([0.2, 0.2, 0.6])
REVERSE = PROBS * (np.log(PROBS / REF) - PROBS @ np.log(PROBS / REF))  # d KL(policy | reference) / d logits
FORWARD = PROBS - REF  # d KL(reference | policy) / d logits


def in_loss(estimator):
    """Expected gradient of the KL term of policy_loss: the weights are the probabilities of the three actions."""
    old, ref = (np.log(p)[:, None].astype(np.float32) for p in (PROBS, REF))
    episodes = episodes_of(
        np.ones(3), old_logprobs=old, ref_logprobs=ref, kl_weights=(3 * PROBS)[:, None].astype(np.float32)
    )
    settings = loss.LossSettings(kl=estimator)

    def objective(logits):
        logprobs = jax.nn.log_softmax(logits)[:, None]
        return loss.policy_loss(episodes, logprobs, jnp.zeros((3, 1)), jnp.float32(3), settings)[0]

    return np.asarray(jax.grad(objective)(jnp.log(PROBS.astype(np.float32))))


def in_reward(estimator):
    """Expected gradient of minus the rewards that shape_rewards makes of KL alone."""
    old, ref = (np.log(p)[:, None].astype(np.float32) for p in (PROBS, REF))
    shaped = advantage.shape_rewards(np.zeros(3), old, ref, np.ones(3, int), 1.0, False, estimator)
    return (PROBS[:, None] * -shaped * scored(np.arange(3))).sum(axis=0)


@pytest.mark.parametrize(
    ("gradient", "estimator", "expected"),
    [
        (in_reward, "k1", REVERSE),
        (in_loss, "k2", REVERSE),
        (in_loss, "k1", np.zeros(3)),
        (in_loss, "k3", FORWARD),
        (in_reward, "k3", REVERSE - FORWARD),
    ],
)
def test_the_gradient_of_each_pair_is_that_which_the_warning_names(gradient, estimator, expected):
    np.testing.assert_allclose(gradient(estimator), expected, atol=2e-6)
    place = "loss" if gradient is in_loss else "advantage"
    assert ((place, estimator) in kl.BIASES) == (expected is not REVERSE)


def test_k2_in_the_reward_is_neither_direction():
    assert ("advantage", "k2") in kl.BIASES
    for exact in (REVERSE, FORWARD):
        gradient = in_reward("k2")
        assert abs(gradient @ exact) / np.linalg.norm(gradient) / np.linalg.norm(exact) < 0.99


def test_values_of_the_estimators():
    """All three are KL in expectation (k2 nearly), k2 and k3 are never negative."""
    ratio = np.log(PROBS / REF)
    exact = PROBS @ ratio
    assert PROBS @ kl.estimate(ratio, "k1") == pytest.approx(exact)
    assert PROBS @ kl.estimate(ratio, "k3") == pytest.approx(exact)
    np.testing.assert_allclose(kl.estimate(np.log([2.0, 0.5]), "k2"), [0.5 * np.log(2) ** 2] * 2)
    np.testing.assert_allclose(kl.estimate(np.log([2.0, 0.5]), "k3"), [0.5 - 1 + np.log(2), 2 - 1 - np.log(2)])


def test_over_two_tokens_k1_in_the_reward_is_exact_and_k2_in_the_loss_leaves_out_what_follows():
    """Two binary tokens, the reference of the second depends on the first: 0 leads to where the policy differs."""
    theta = np.asarray([0.2, -0.4, 0.7])  # logits of 1: first token, second after 0, second after 1
    ref = 1 / (1 + np.exp(-np.asarray([0.0, 2.0, 0.7])))
    sequences = list(itertools.product((0, 1), repeat=2))

    def logprobs(p):
        return np.asarray(
            [[np.log(p[0] if a else 1 - p[0]), np.log(p[1 + a] if b else 1 - p[1 + a])] for a, b in sequences]
        )

    def divergence(logits):
        new = logprobs(1 / (1 + np.exp(-logits)))
        return np.exp(new.sum(axis=1)) @ (new - logprobs(ref)).sum(axis=1)

    exact = [(divergence(theta + e) - divergence(theta - e)) / 2e-5 for e in 1e-5 * np.eye(3)]
    probs = 1 / (1 + np.exp(-theta))
    old, weights = logprobs(probs), np.exp(logprobs(probs).sum(axis=1))
    scores = np.zeros((4, 2, 3))  # d log p(token) / d logits
    for i, (a, b) in enumerate(sequences):
        scores[i, 0, 0], scores[i, 1, 1 + a] = a - probs[0], b - probs[1 + a]
    shaped = advantage.shape_rewards(np.zeros(4), old, logprobs(ref), np.full(4, 2), 1.0, False, "k1")
    later = advantage.gae(-shaped, np.zeros((4, 2)), 1.0, 1.0)
    np.testing.assert_allclose(np.einsum("i,it,itk->k", weights, later, scores), exact, atol=1e-6)
    local = np.einsum("i,it,itk->k", weights, old - logprobs(ref), scores)  # k2 in the loss: log ratio * d log p
    np.testing.assert_allclose(local[1:], exact[1:], atol=1e-6)
    assert abs(local[0] - exact[0]) > 0.05  # the first token's part in where the second is


# --- averages --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("average", "weights"),
    [
        ("tokens", [1 / 4, 1 / 4]),  # three tokens and one
        ("responses", [1 / 2 / 3, 1 / 2]),
        ("constant", [1 / 2 / 10, 1 / 2 / 10]),
    ],
)
def test_averages_by_hand(average, weights):
    advantages = np.asarray([[1, 2, 4, 9], [8, 9, 9, 9]], np.float32)
    zeros = np.zeros((2, 4), np.float32)
    episodes = episodes_of(
        [3, 1], old_logprobs=zeros, ref_logprobs=zeros - 1, advantages=advantages, kl_weights=advantages
    )
    settings = loss.LossSettings(average=average, length=10, kl="k1")
    minibatch = loss.weighted(episodes, settings)
    count = loss.num_positions(minibatch.mask, settings)
    value, stats = loss.policy_loss(minibatch, zeros, zeros, count, settings)
    expected = weights[0] * (1 + 2 + 4) + weights[1] * 8
    np.testing.assert_allclose(stats["loss/policy"], -expected, rtol=1e-6)
    np.testing.assert_allclose(stats["loss/kl"], expected, rtol=1e-6)
    np.testing.assert_allclose(value, 0, atol=1e-6)
    if average == "tokens":
        assert minibatch is episodes


def test_the_gradient_of_the_loss_is_that_of_finite_differences():
    rng = np.random.default_rng(0)
    numbers = {
        name: rng.normal(size=(3, 4)).astype(np.float32) for name in ("old_logprobs", "ref_logprobs", "advantages")
    }
    numbers["ref_logprobs"][1, 2:] = 200  # padding, whose exp(200) must reach no gradient
    episodes = episodes_of([4, 2, 3], **numbers, kl_weights=np.full((3, 4), 0.3, np.float32))
    new = (numbers["old_logprobs"] + rng.normal(size=(3, 4)) * 0.1).astype(np.float32)
    for estimator in ("", "k1", "k2", "k3"):
        settings = loss.LossSettings(kl=estimator, clip_ratio=10.0)

        def value(logprobs, settings=settings):
            return loss.policy_loss(episodes, logprobs, jnp.zeros((3, 4)), jnp.float32(9), settings)[0]

        gradient = np.asarray(jax.grad(value)(new))
        for place in [(0, 0), (0, 3), (1, 1), (1, 3), (2, 2)]:
            step = np.zeros((3, 4), np.float32)
            step[place] = 1e-2
            assert gradient[place] == pytest.approx(float(value(new + step) - value(new - step)) / 2e-2, abs=2e-3)
        assert gradient[1, 3] == 0  # past the end
