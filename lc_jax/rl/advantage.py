"""Per-token rewards and advantages from scores (paper section 5): KL shaping, whitening, GAE, baselines.

Float32 numpy on the host, where scores and rollouts are. `masked` statistics run over real response tokens only.
`masked=False` is the published arithmetic: the same formulas over every response position, padding included.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Bool, Float, Int

from lc_jax.preflight import POSITIVE_INT, PROBABILITY, check_settings, divisors
from lc_jax.rl.batch import Episodes
from lc_jax.rl.kl import ESTIMATORS
from lc_jax.rl.kl import estimate as estimate_kl

# What a score is compared with (ppo.baseline).
GROUPED = ("leave_one_out", "same_answer", "group_mean")  # compare the scores of a group
BASELINES = ("critic", "critic_with_answer", "counterfactual", *GROUPED)
TOKENS = ("all", "confidence", "decoupled")


@dataclasses.dataclass(frozen=True)
class AdvantageSettings:
    """Settings of advantage estimation."""

    gamma: float = 1.0
    lam: float = 1.0
    whiten_rewards: bool = True  # scale the shaped rewards to unit variance, their mean kept
    whiten_groups: int = 1  # statistics over so many equal runs of episodes; published: one for each of 8 devices
    clamp_kl: bool = False  # published: a token's penalty is never negative
    masked: bool = True
    whiten_advantages: bool = True  # to mean 0 and variance 1
    kl: str = (
        "k1"  # estimator of the KL penalty in the rewards, one of kl.ESTIMATORS; "": none there (see LossSettings)
    )
    group_std: bool = False  # divides a compared score by the standard deviation of its group, as GRPO does
    tokens: str = "all"  # which tokens a score trains, one of TOKENS; see `by_token`

    def __post_init__(self) -> None:
        check_settings(
            "advantage", self, gamma=PROBABILITY, lam=PROBABILITY, whiten_groups=POSITIVE_INT,
            kl=("", *ESTIMATORS), tokens=TOKENS,
        )  # fmt: skip
        if self.clamp_kl and self.kl != "k1":
            raise ValueError(
                f"--config.advantage.clamp_kl=True with --config.advantage.kl={self.kl}: only k1 can be negative; give "
                "clamp_kl=False."
            )

    def check(self, num_episodes: int) -> None:
        """Refuses groups that do not divide a rollout.

        Raises:
          ValueError: names the flag and the nearest sizes.
        """
        if num_episodes % self.whiten_groups:
            raise ValueError(
                f"--config.advantage.whiten_groups={self.whiten_groups} does not divide the rollout's {num_episodes} "
                f"episodes (--config.ppo.rollout_batch_size): give {divisors(num_episodes, self.whiten_groups)}."
            )


def whiten(
    values: Float[np.ndarray, "B T"], mask: Bool[np.ndarray, "B T"], shift_mean: bool, epsilon: float = 1e-8
) -> Float[np.ndarray, "B T"]:
    """(x - mean) / (std + epsilon), the mean added back unless `shift_mean`; population std over the mask; 0 outside.

    Reference: torch_ops.py:whiten.
    """
    count = np.float32(max(np.sum(mask), 1))
    masked = np.where(mask, values, np.float32(0))
    mean = np.sum(masked) / count
    std = np.sqrt(np.sum(np.where(mask, np.square(masked - mean), np.float32(0))) / count)
    white = (masked - mean) / (std + np.float32(epsilon))
    return np.where(mask, white if shift_mean else white + mean, np.float32(0))


def shape_rewards(
    scores: Float[np.ndarray, " B"],
    logprobs: Float[np.ndarray, "B T"],
    ref_logprobs: Float[np.ndarray, "B T"],
    lengths: Int[np.ndarray, " B"],
    kl_coef: float,
    clamp: bool,
    estimator: str = "k1",
) -> Float[np.ndarray, "B T"]:
    """-kl_coef * KL_t at every response token, and the score at the last one; 0 past the end.

    KL_t is `kl.estimate` of log pi - log ref, or max(., 0) when `clamp`; 0 where `estimator` is "".
    Differs: the last token is found by length, not by counting pad ids, so that pad may equal end-of-sequence.
    """
    positions = np.arange(logprobs.shape[1])
    kl = logprobs - ref_logprobs  # 0 past the end, where both are
    kl = estimate_kl(kl, estimator) if estimator else np.zeros_like(kl)
    shaped = -kl_coef * (np.maximum(kl, 0) if clamp else kl)
    return shaped + np.where(positions == lengths[:, None] - 1, scores[:, None], np.float32(0))


def gae(
    rewards: Float[np.ndarray, "B T"], values: Float[np.ndarray, "B T"], gamma: float, lam: float
) -> Float[np.ndarray, "B T"]:
    """A_t = delta_t + gamma lam A_{t+1} with delta_t = r_t + gamma V_{t+1} - V_t and V_T = 0 (Schulman et al. 2016)."""
    following = np.pad(values[:, 1:], ((0, 0), (0, 1)))
    deltas = rewards + gamma * following - values
    advantages, later = np.zeros_like(deltas), np.zeros_like(deltas[:, 0])
    for t in reversed(range(deltas.shape[1])):
        advantages[:, t] = later = deltas[:, t] + gamma * lam * later
    return advantages


def leave_one_out(scores: Float[np.ndarray, " B"], groups: Int[np.ndarray, " B"]) -> Float[np.ndarray, " B"]:
    """Each score less the mean of the other scores of its group; 0 where a group has one member.

    Grouped by question, what is wrong with the ground truth itself cancels. Grouped by question and top answer
    ("same_answer"), the choice of the answer cancels as well: the expected gradient is that of E[score | answer], so
    that stated confidence is learned and the answers to the training questions are not. An answer that no other sample
    gives is not compared, so that rare answers count less.
    """
    sizes = np.bincount(groups)[groups]
    sums = np.bincount(groups, scores)[groups]
    return np.where(sizes > 1, (scores * sizes - sums) / np.maximum(sizes - 1, 1), 0.0).astype(np.float32)


def compare(
    scores: Float[np.ndarray, " B"], groups: Int[np.ndarray, " B"], baseline: str, by_std: bool
) -> Float[np.ndarray, " B"]:
    """Returns each score less the baseline of its group.

    "group_mean" subtracts the mean of all members (Dr. GRPO, Liu et al. 2025): (n - 1) / n of `leave_one_out` in groups
    of n.

    Args:
      by_std: divides by the group's standard deviation as well (GRPO, Shao et al. 2024); 0 where that is 0. The weight
        of a question then depends on its outcomes, and the expected gradient is not the score's.
    """
    sizes, means = np.bincount(groups)[groups], (np.bincount(groups, scores) / np.bincount(groups))[groups]
    compared = scores - means if baseline == "group_mean" else leave_one_out(scores, groups)
    if by_std:
        variances = (np.bincount(groups, np.square(scores - means)))[groups] / sizes
        compared = np.where(variances > 1e-12, compared / np.sqrt(np.maximum(variances, 1e-12)), 0.0)
    return compared.astype(np.float32)


def comparison_groups(baseline: str, num_samples: int, top_answers: Sequence[str]) -> Int[np.ndarray, " B"] | None:
    """Returns the number of each episode's group in `compare`; None where the baseline is not the scores of a group.

    A group is the samples of one question or those of them with the same top answer ("same_answer").
    """
    if baseline not in GROUPED:
        return None
    questions = np.arange(len(top_answers)) // num_samples
    if baseline != "same_answer":
        return questions
    keys = list(zip(questions, top_answers, strict=True))
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    return np.asarray([numbers[key] for key in keys])


def advantages_and_returns(
    rewards: Float[np.ndarray, "B T"],
    values: Float[np.ndarray, "B T"],
    mask: Bool[np.ndarray, "B T"],
    settings: AdvantageSettings,
    trained: Bool[np.ndarray, "B T"] | None = None,
) -> tuple[Float[np.ndarray, "B T"], Float[np.ndarray, "B T"]]:
    """Returns whitened advantages, and returns = unwhitened advantages + values.

    Reference: ppo_trainer.py:_estimate_advantage.

    Args:
      trained: tokens that have an advantage; None: all.

    Raises:
      ValueError: `whiten_groups` does not divide the episodes.
    """
    settings.check(len(rewards))
    trained = np.ones_like(mask) if trained is None else trained
    if settings.whiten_groups > 1:
        alone = dataclasses.replace(settings, whiten_groups=1)
        runs = zip(*(np.split(x, settings.whiten_groups) for x in (rewards, values, mask, trained)), strict=True)
        parts = [advantages_and_returns(r, v, m, alone, t) for r, v, m, t in runs]
        return np.concatenate([a for a, _ in parts]), np.concatenate([r for _, r in parts])
    counted = mask if settings.masked else np.ones_like(mask)
    values = np.where(counted, values, np.float32(0))
    if settings.whiten_rewards:
        rewards = whiten(rewards, counted, shift_mean=False)
    raw = gae(rewards, values, settings.gamma, settings.lam)
    if settings.whiten_advantages:
        advantages = whiten(raw, counted & trained, shift_mean=True)
    else:
        advantages = np.where(counted & trained, raw, np.float32(0))
    return advantages, np.where(counted, raw + values, np.float32(0))


def estimate(
    episodes: Episodes,
    scores: Float[np.ndarray, " B"],
    kl_coef: float,
    settings: AdvantageSettings,
    groups: Int[np.ndarray, " B"] | None = None,
    baseline: str = "leave_one_out",
    trained: Bool[np.ndarray, "B T"] | None = None,
) -> tuple[Episodes, float]:
    """Returns a whole rollout (host arrays) with advantages and returns, and the explained variance.

    That is the share of the returns' variance that the critic explains: 1 is perfect, 0 no better than their mean.

    Args:
      groups: numbers of the groups whose members are compared, where the baseline is no critic (see `compare`).
      trained: tokens that have an advantage and a KL term; None: all.
    """
    if groups is not None:
        scores = compare(scores, groups, baseline, settings.group_std)
    lengths, mask, values = episodes.lengths, episodes.mask, episodes.old_values
    rewards = shape_rewards(
        scores, episodes.old_logprobs, episodes.ref_logprobs, lengths, kl_coef, settings.clamp_kl, settings.kl
    )
    advantages, returns = advantages_and_returns(rewards, values, mask, settings, trained)
    kl_weights = np.where(mask if trained is None else mask & trained, np.float32(kl_coef), np.float32(0))
    residual, variance = np.mean(np.square(returns - values)[mask]), np.var(returns[mask])
    explained = 1.0 - float(residual) / max(float(variance), 1e-8)
    return dataclasses.replace(episodes, advantages=advantages, returns=returns, kl_weights=kl_weights), explained


def by_token(
    estimator: Callable[..., tuple[Episodes, float]],
    scores: Float[np.ndarray, " B"],
    answer_scores: Float[np.ndarray, " B"] | None,
    is_confidence: Bool[np.ndarray, "B T"],
) -> tuple[Episodes, float]:
    """Returns a rollout in which tokens that state a confidence have advantages of their own, and their variance.

    Args:
      estimator: `estimate` of the rollout, as a function of scores and the tokens that they train.
      scores: of the responses.
      answer_scores: the part of the scores that the answer alone earns: it trains the other tokens, the rest of the
        score those of confidence ("decoupled": DCPO, Ma et al. 2026). A response without tokens of confidence is
        trained by its whole score. None: the whole score trains the tokens of confidence, and the others are frozen
        ("confidence": Rewarding Doubt), except those of a response without tokens of confidence.
    """
    has_confidence = np.asarray(is_confidence.any(axis=1))
    if answer_scores is None:
        return estimator(scores, trained=is_confidence | ~has_confidence[:, None])
    answer_scores = np.where(has_confidence, answer_scores, scores)
    of_confidence, explained = estimator(scores - answer_scores, trained=is_confidence)
    of_answers, _ = estimator(answer_scores, trained=~is_confidence)
    # Each is 0 where the other is not.
    advantages = of_confidence.advantages + of_answers.advantages
    kl_weights = of_confidence.kl_weights + of_answers.kl_weights
    return dataclasses.replace(of_confidence, advantages=advantages, kl_weights=kl_weights), explained
