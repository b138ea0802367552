"""Rewards: one score per paragraph from a reader's forecasts (paper section 4). Float32 numpy, on the host."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from lc_jax.preflight import NON_NEGATIVE, Range, check_settings
from lc_jax.rl.reader import AnswerForecasts


@dataclasses.dataclass(frozen=True)
class RewardSettings:
    """Name of the reward, and its constants. The decision-based defaults are the published ones."""

    name: str = "decision_based"  # a key of REWARDS
    normalization: float = 5.0  # lambda, the weight of |sum of forecasts - 1|
    offset: float = 5.0  # C, added to every score
    epsilon: float = 1e-4  # probabilities below it count as it

    def __post_init__(self) -> None:
        check_settings(
            "reward",
            self,
            name=tuple(REWARDS),
            normalization=NON_NEGATIVE,
            offset=Range(),
            epsilon=Range(above=0, high=1),
        )


@dataclasses.dataclass(frozen=True)
class Rewards:
    """One score per paragraph and the parts it is made of, all float32."""

    total: Float[np.ndarray, " B"]  # what the policy is trained on
    log_score: Float[np.ndarray, " B"]  # log max(p(y), epsilon), nats; the 0/1 verdict for "factuality"
    normalization: Float[np.ndarray, " B"]  # -lambda |sum - 1|, or the Brier term; 0 for "factuality"


def probability(logits: Float[np.ndarray, "*B"]) -> Float[np.ndarray, "*B"]:
    """Computes sigmoid(logits), float32, without overflow."""
    logits = np.asarray(logits, np.float32)
    small = np.exp(-np.abs(logits))
    return np.where(logits >= 0, 1 / (1 + small), small / (1 + small)).astype(np.float32)


def _mass(forecasts: AnswerForecasts) -> Float[np.ndarray, " B"]:
    return np.where(forecasts.answer_mask, probability(forecasts.answer_logits), np.float32(0)).sum(axis=1)


def decision_based(forecasts: AnswerForecasts, settings: RewardSettings) -> Rewards:
    """Computes log max(p(y), epsilon) - lambda |sum over A of p(a) - 1| + C, a proper score with a penalty.

    The true answer enters the sum only when it was extracted as well.
    """
    log_score = np.log(np.maximum(probability(forecasts.target_logits), np.float32(settings.epsilon)))
    penalty = -np.float32(settings.normalization) * np.abs(_mass(forecasts) - 1)
    return Rewards(log_score + penalty + np.float32(settings.offset), log_score, penalty)


def factuality(forecasts: AnswerForecasts, settings: RewardSettings) -> Rewards:
    """Computes 1 if the reader believes that the true answer follows from the paragraph (p > 1/2), else 0.

    Differs: float32, where the published code keeps integers that truncate a later penalty.
    """
    verdict = (probability(forecasts.target_logits) > 0.5).astype(np.float32)
    return Rewards(verdict + np.float32(settings.offset), verdict, np.zeros_like(verdict))


REWARDS: dict[str, Callable[[AnswerForecasts, RewardSettings], Rewards]] = {
    "decision_based": decision_based,
    "factuality": factuality,
}


def compute(forecasts: AnswerForecasts, settings: RewardSettings) -> Rewards:
    """Computes the reward that `settings` names.

    Raises:
      ValueError: the arrays have different numbers of paragraphs or answers.
    """
    if forecasts.answer_logits.shape != forecasts.answer_mask.shape or len(forecasts.answer_mask) != len(
        forecasts.target_logits
    ):
        raise ValueError(
            f"Forecasts of {len(forecasts.target_logits)} truths and {forecasts.answer_mask.shape} answers."
        )
    return REWARDS[settings.name](forecasts, settings)


def penalize_unstopped(
    scores: Float[np.ndarray, " B"], stopped: Bool[np.ndarray, " B"], penalty: float = -1.0
) -> Float[np.ndarray, " B"]:
    """Replaces the score of responses without a stop token by `penalty`."""
    return np.where(stopped, scores, np.float32(penalty)).astype(np.float32)
