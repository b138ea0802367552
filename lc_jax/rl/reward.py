"""Rewards: one score per paragraph from a reader's forecasts and their outcomes. Float32 numpy, on the host.

docs/objectives.md has the formula, the reference and the config line of each, and whether it is proper.
"""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from jaxtyping import Bool, Float

from lc_jax.preflight import NON_NEGATIVE, PROBABILITY, Range, check_settings
from lc_jax.rl.outcomes import Outcomes
from lc_jax.rl.reader import AnswerForecasts

TARGETS = ("outcome", "group_accuracy", "empirical_rate")


@dataclasses.dataclass(frozen=True)
class RewardSettings:
    """Name of the reward, and its constants. The decision-based defaults are the published ones."""

    name: str = "decision_based"  # a key of REWARDS, or MODULE:FUNCTION with the same arguments
    normalization: float = 5.0  # lambda, the weight of |sum of forecasts - 1|
    offset: float = 5.0  # C, added to every score
    epsilon: float = 1e-4  # probabilities below it count as it
    target: str = "outcome"  # what a stated confidence is scored against, mixed with the outcome: one of TARGETS
    target_weight: float = 0.5  # weight of a target that is not the outcome; the outcome has the rest
    threshold_low: float = 0.5  # decision thresholds from here
    threshold_high: float = 1.0  # to here count more
    threshold_weight: float = 4.0  # by this much; all others count 1

    def __post_init__(self) -> None:
        is_users = ":" in str(self.name)
        if is_users:
            user_reward(self.name)
        check_settings(
            "reward",
            self,
            name=(self.name,) if is_users else tuple(REWARDS),
            normalization=NON_NEGATIVE,
            offset=Range(),
            epsilon=Range(above=0, high=1),
            target=TARGETS,
            target_weight=PROBABILITY,
            threshold_low=PROBABILITY,
            threshold_high=Range(above=self.threshold_low if self.threshold_low in PROBABILITY else 0, high=1),
            threshold_weight=NON_NEGATIVE,
        )
        if self.target != "outcome" and self.name in REWARDS and self.name not in OF_STATED_CONFIDENCE:
            raise ValueError(
                f"--config.reward.target={self.target} is for rewards of one stated confidence, "
                f"{' and '.join(OF_STATED_CONFIDENCE)}; {self.name} scores forecasts of answers: give target=outcome."
            )


@dataclasses.dataclass(frozen=True)
class Rewards:
    """One score per paragraph and the parts it is made of, all float32 [B]."""

    total: Float[np.ndarray, " B"]  # what the policy is trained on
    parts: Mapping[str, Float[np.ndarray, " B"]]  # by name, for the log; "correctness" rewards the answer alone


Reward = Callable[[AnswerForecasts, Outcomes, RewardSettings], Rewards]


def probability(logits: Float[np.ndarray, "*B"]) -> Float[np.ndarray, "*B"]:
    """Computes sigmoid(logits), float32, without overflow."""
    logits = np.asarray(logits, np.float32)
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)


# --- scores of the forecasts of all answers --------------------------------------------------------------------------


def _mass(forecasts: AnswerForecasts) -> Float[np.ndarray, " B"]:
    return np.where(forecasts.answer_mask, probability(forecasts.answer_logits), np.float32(0)).sum(axis=1)


def decision_based(forecasts: AnswerForecasts, outcomes: Outcomes, settings: RewardSettings) -> Rewards:
    """Computes log max(p(y), epsilon) - lambda |sum over A of p(a) - 1| + C, a proper score with a penalty.

    The published reward (paper section 4): the true answer enters the sum only when it was extracted as well.
    """
    log_score = np.log(np.maximum(probability(forecasts.target_logits), np.float32(settings.epsilon)))
    penalty = -np.float32(settings.normalization) * np.abs(_mass(forecasts) - 1)
    total = log_score + penalty + np.float32(settings.offset)
    return Rewards(total, {"log_score": log_score, "normalization": penalty})


def factuality(forecasts: AnswerForecasts, outcomes: Outcomes, settings: RewardSettings) -> Rewards:
    """Computes 1 if the reader believes that the true answer follows from the paragraph (p > 1/2), else 0.

    Differs: float32, where the published code keeps integers that truncate a later penalty.
    """
    verdict = (probability(forecasts.target_logits) > 0.5).astype(np.float32)
    return Rewards(
        verdict + np.float32(settings.offset), {"log_score": verdict, "normalization": np.zeros_like(verdict)}
    )


def cluster_probabilities(forecasts: AnswerForecasts, outcomes: Outcomes) -> Float[np.ndarray, "B K+1"]:
    """Returns a probability for each distinct answer; 0 where there is none.

    Column 0 is the ground truth's, whether it was extracted or not. Each other cluster of equivalent answers has the
    mean of its forecasts, since they are of one event and would count twice in a sum.
    """
    numbers = np.arange(outcomes.clusters.shape[1] + 1)  # 0, the ground truth's, to K
    members = forecasts.answer_mask[:, :, None] & (outcomes.clusters[:, :, None] == numbers)
    sums = np.where(members, probability(forecasts.answer_logits)[:, :, None], np.float32(0)).sum(axis=1)
    probs = sums / np.maximum(members.sum(axis=1), 1)
    probs[:, 0] = probability(forecasts.target_logits)
    return probs.astype(np.float32)


def _with_normalizer(name: str, score: np.ndarray, probs: np.ndarray, settings: RewardSettings) -> Rewards:
    """Adds -lambda |sum over distinct answers, the true one among them, - 1| and C to a score."""
    penalty = -np.float32(settings.normalization) * np.abs(probs.sum(axis=1) - 1)
    return Rewards(score + penalty + np.float32(settings.offset), {name: score, "normalization": penalty})


def log(forecasts: AnswerForecasts, outcomes: Outcomes, settings: RewardSettings) -> Rewards:
    """Computes log max(p(y), epsilon), with the normaliser over distinct answers."""
    probs = cluster_probabilities(forecasts, outcomes)
    score = np.log(np.maximum(probs[:, 0], np.float32(settings.epsilon)))
    return _with_normalizer("log_score", score, probs, settings)


def brier(forecasts: AnswerForecasts, outcomes: Outcomes, settings: RewardSettings) -> Rewards:
    """Computes -sum over distinct answers of (p(a) - 1[a = y])^2 (Brier 1950), with the normaliser."""
    probs = cluster_probabilities(forecasts, outcomes)
    score = -np.square(probs[:, 0] - 1) - np.square(probs[:, 1:]).sum(axis=1)
    return _with_normalizer("brier_score", score, probs, settings)


def spherical(forecasts: AnswerForecasts, outcomes: Outcomes, settings: RewardSettings) -> Rewards:
    """Computes p(y) / sqrt(sum over distinct answers of p(a)^2), with the normaliser; it ignores the sum by itself."""
    probs = cluster_probabilities(forecasts, outcomes)
    norm = np.sqrt(np.square(probs).sum(axis=1))
    return _with_normalizer("spherical_score", probs[:, 0] / np.maximum(norm, settings.epsilon), probs, settings)


def threshold_weighted(forecasts: AnswerForecasts, outcomes: Outcomes, settings: RewardSettings) -> Rewards:
    """Computes minus the mean loss of decisions on each distinct answer, thresholds weighted, with the normaliser.

    Anyone who acts on an answer where its probability exceeds t loses t if it is wrong, and 1 - t by not acting on the
    right one. The loss is integrated over t in [0, 1] with the weight 1, or `threshold_weight` between `threshold_low`
    and `threshold_high`. Weight 1 everywhere is half the Brier score (Schervish 1989).
    """
    probs = cluster_probabilities(forecasts, outcomes)
    low, high = np.float32(settings.threshold_low), np.float32(settings.threshold_high)
    inside = np.clip(probs, low, high)
    extra = np.float32(settings.threshold_weight - 1)
    missed = np.square(1 - probs) + extra * (np.square(1 - inside) - np.square(1 - high))  # of the right answer
    false = np.square(probs) + extra * (np.square(inside) - np.square(low))  # of a wrong one
    score = np.float32(-0.5) * (missed[:, 0] + false[:, 1:].sum(axis=1))  # padding has p = 0, which loses nothing
    return _with_normalizer("threshold_score", score, probs, settings)


# --- scores of the stated confidence in one answer -------------------------------------------------------------------


def stated_confidence(
    forecasts: AnswerForecasts, outcomes: Outcomes
) -> tuple[Float[np.ndarray, " B"], Float[np.ndarray, " B"]]:
    """Returns the probability of the top answer, and whether it is correct (0 or 1).

    A paragraph without an answer counts as incorrect with confidence 1, as in evaluation: saying nothing must not pay.
    """
    rows, top = np.arange(len(forecasts.answer_mask)), forecasts.top
    has_answer = forecasts.answer_mask.any(axis=1)
    confidence = np.where(has_answer, probability(forecasts.answer_logits[rows, top]), np.float32(1))
    correct = has_answer & (outcomes.clusters[rows, top] == 0)
    return confidence, correct.astype(np.float32)


def confidence_target(
    correct: Float[np.ndarray, " B"], outcomes: Outcomes, settings: RewardSettings
) -> Float[np.ndarray, " B"]:
    """Returns what a confidence is scored against: the outcome mixed with a less noisy rate of its question.

    "group_accuracy" is the fraction of correct paragraphs among those for the same question (DCPO, Ma et al. 2026),
    "empirical_rate" a fraction from earlier data (arXiv 2607.00164). Where it is unknown, the outcome stays.
    """
    if settings.target == "outcome":
        return correct
    rates = outcomes.rates
    if settings.target == "group_accuracy":
        rates = (np.bincount(outcomes.groups, correct) / np.maximum(np.bincount(outcomes.groups), 1))[outcomes.groups]
    mixed = (1 - settings.target_weight) * correct + settings.target_weight * rates
    return np.where(np.isnan(rates), correct, mixed).astype(np.float32)


def _squared_error(confidence: np.ndarray, target: np.ndarray, settings: RewardSettings) -> np.ndarray:
    return -np.square(confidence - target)


def _log_loss(confidence: np.ndarray, target: np.ndarray, settings: RewardSettings) -> np.ndarray:
    epsilon = np.float32(settings.epsilon)
    of_correct = target * np.log(np.maximum(confidence, epsilon))
    return of_correct + (1 - target) * np.log(np.maximum(1 - confidence, epsilon))


def rlcr(forecasts: AnswerForecasts, outcomes: Outcomes, settings: RewardSettings) -> Rewards:
    """Computes correct - (confidence - target)^2 + C: the most probable answer with its probability is the best.

    Reference: RLCR, Damani et al. 2025 (arXiv 2507.16806), where the target is the outcome.
    """
    confidence, correct = stated_confidence(forecasts, outcomes)
    calibration = _squared_error(confidence, confidence_target(correct, outcomes, settings), settings)
    parts = {"correctness": correct, "calibration": calibration}
    return Rewards(correct + calibration + np.float32(settings.offset), parts)


def rewarding_doubt(forecasts: AnswerForecasts, outcomes: Outcomes, settings: RewardSettings) -> Rewards:
    """Computes target log(confidence) + (1 - target) log(1 - confidence) + C, probabilities of at least epsilon.

    Proper for the confidence, not for the answer: a surely wrong one with confidence 0 loses nothing. Answers should be
    frozen (advantage.tokens=confidence). Reference: Rewarding Doubt, Bani-Harouni et al. 2025 (arXiv 2503.02623).
    """
    confidence, correct = stated_confidence(forecasts, outcomes)
    calibration = _log_loss(confidence, confidence_target(correct, outcomes, settings), settings)
    return Rewards(calibration + np.float32(settings.offset), {"calibration": calibration})


# What they score one stated confidence by: (confidence, target, settings), arrays of any one shape.
OF_STATED_CONFIDENCE = {"rlcr": _squared_error, "rewarding_doubt": _log_loss}


def counterfactual(
    forecasts: AnswerForecasts, outcomes: Outcomes, settings: RewardSettings, num_samples: int
) -> Float[np.ndarray, " B"]:
    """Returns the mean score of the other samples' confidences, each with the answer of this sample.

    With the score s(confidence, target) of a reward of `OF_STATED_CONFIDENCE`, it is the mean over the other samples j
    of the question of s(c_j, target_i), plus all of sample i's reward that its confidence does not change. A baseline
    may be any function of the answer where only the confidence is trained (as in COMA, Foerster et al. 2018), and what
    is left of the reward is how much better this confidence is than the others for the same outcome.

    Args:
      num_samples: B is a multiple of it; the samples of a question follow one another.
    """
    confidence, correct = stated_confidence(forecasts, outcomes)
    target = confidence_target(correct, outcomes, settings)
    score, rest = OF_STATED_CONFIDENCE[settings.name], compute(forecasts, outcomes, settings).total
    rest = rest - score(confidence, target, settings)
    table = score(confidence.reshape(-1, 1, num_samples), target.reshape(-1, num_samples, 1), settings)
    others = (table * (1 - np.eye(num_samples, dtype=np.float32))).sum(axis=2) / np.float32(num_samples - 1)
    return (others.reshape(-1) + rest).astype(np.float32)


REWARDS: dict[str, Reward] = {
    "decision_based": decision_based,
    "factuality": factuality,
    "log": log,
    "brier": brier,
    "spherical": spherical,
    "threshold_weighted": threshold_weighted,
    "rlcr": rlcr,
    "rewarding_doubt": rewarding_doubt,
}
WITH_CORRECTNESS = ("rlcr",)  # a part of the score rewards the answer alone


def user_reward(name: str) -> Reward:
    """Returns the function MODULE:FUNCTION.

    Raises:
      ValueError: Python cannot import it.
    """
    module, _, function = name.partition(":")
    try:
        return getattr(importlib.import_module(module), function)
    except (ImportError, AttributeError, ValueError) as error:
        raise ValueError(
            f"--config.reward.name={name}: {error}. Give MODULE:FUNCTION of a module that Python can import; "
            "PYTHONPATH=FOLDER adds its folder."
        ) from error


def compute(forecasts: AnswerForecasts, outcomes: Outcomes, settings: RewardSettings) -> Rewards:
    """Computes the reward that `settings` names.

    Raises:
      ValueError: the arrays have different numbers of paragraphs or answers, or a user's reward returns no numbers of
        B paragraphs.
    """
    count = len(forecasts.target_logits)
    shapes = {forecasts.answer_logits.shape, forecasts.answer_mask.shape, outcomes.clusters.shape}
    if len(shapes) > 1 or len(forecasts.answer_mask) != count:
        raise ValueError(f"Forecasts of {count} truths and {forecasts.answer_mask.shape} answers.")
    if settings.name in REWARDS:
        return REWARDS[settings.name](forecasts, outcomes, settings)
    rewards = user_reward(settings.name)(forecasts, outcomes, settings)
    if not isinstance(rewards, Rewards) or np.shape(rewards.total) != (count,):
        raise ValueError(
            f"--config.reward.name={settings.name} returns {type(rewards).__name__} for {count} paragraphs: return "
            f"lc_jax.rl.reward.Rewards with a `total` of shape ({count},)."
        )
    return rewards


def penalize_unstopped(
    scores: Float[np.ndarray, " B"], stopped: Bool[np.ndarray, " B"], penalty: float = -1.0
) -> Float[np.ndarray, " B"]:
    """Replaces the score of responses without a stop token by `penalty`."""
    return np.where(stopped, scores, np.float32(penalty)).astype(np.float32)


def penalize_unreadable(rewards: Rewards, refusals: Sequence[str], settings: RewardSettings) -> Rewards:
    """Replaces the score of paragraphs that a reader could not read by one that is below that of any statement.

    It is one less than the score of p(y) = 0 and certainty in a wrong answer, which every reward scores lowest but for
    the penalty on the sum; that is at most lambda, which is subtracted too. A log score counts p(y) = 0 as epsilon: a
    statement that is certain of a wrong answer loses less where its reader gives every answer more than that. The part
    "correctness", where there is one, is one less than that of a wrong answer, so that it trains answers by itself.

    Args:
      refusals: why each paragraph could not be read, "" of one that could; () of a reader that reads everything.
    """
    if not any(refusals):
        return rewards
    certain = np.full((1, 1), 40, np.float32)  # logits: p(a) = 1 of a wrong answer, and p(y) = 0
    wrong = AnswerForecasts(-certain[0], certain, np.ones((1, 1), bool))
    outcome = Outcomes(np.ones((1, 1), np.int64), np.zeros(1, np.int64), np.full(1, np.nan, np.float32))
    lowest = compute(wrong, outcome, settings)
    unreadable = np.asarray(refusals, bool)
    total = np.where(unreadable, lowest.total[0] - np.float32(settings.normalization) - 1, rewards.total)
    parts = dict(rewards.parts)
    if "correctness" in parts:
        parts["correctness"] = np.where(unreadable, lowest.parts["correctness"][0] - 1, parts["correctness"])
        parts["correctness"] = parts["correctness"].astype(np.float32)
    return Rewards(total.astype(np.float32), parts)
