"""Combinations of reward, advantages and loss: those that cannot be, and those that do not do what they seem to."""

from __future__ import annotations

from lc_jax.rl import kl, reward
from lc_jax.rl.advantage import GROUPED, AdvantageSettings
from lc_jax.rl.loss import LossSettings
from lc_jax.rl.settings import PPOSettings

_STD = (
    "--config.advantage.group_std=True: dividing by the standard deviation of a group breaks calibration, since a "
    "question then counts by how its outcomes vary: stated probabilities move to 0 and 1 (released predictions of "
    "5,608 rows: calibration error .288 with it, .046 without; PPO .039, leave-one-out .042; arXiv 2508.11800)."
)


def check(ppo: PPOSettings, rewards: reward.RewardSettings, advantages: AdvantageSettings, loss: LossSettings) -> None:
    """Refuses settings that contradict one another.

    Raises:
      ValueError: names the flags and the remedy.
    """
    if advantages.kl and loss.kl:
        raise ValueError(
            f"--config.advantage.kl={advantages.kl} and --config.loss.kl={loss.kl} count the KL penalty twice: give '' "
            "for one of them."
        )
    if advantages.group_std and ppo.baseline not in GROUPED:
        raise ValueError(
            f"--config.advantage.group_std=True with --config.ppo.baseline={ppo.baseline}, which compares no group; "
            "give baseline=group_mean or leave_one_out."
        )
    if ppo.baseline == "counterfactual" and rewards.name not in reward.OF_STATED_CONFIDENCE:
        raise ValueError(
            f"--config.ppo.baseline=counterfactual with --config.reward.name={rewards.name}, which is not a score of "
            f"one stated confidence: give reward.name={' or '.join(reward.OF_STATED_CONFIDENCE)}."
        )
    if ppo.baseline == "counterfactual" and advantages.tokens != "confidence":
        raise ValueError(
            f"--config.ppo.baseline=counterfactual with --config.advantage.tokens={advantages.tokens}: it compares "
            "confidences in the same answer, and says nothing about answers; give advantage.tokens=confidence."
        )
    if advantages.tokens != "decoupled":
        return
    if ppo.baseline == "same_answer":
        raise ValueError(
            "--config.advantage.tokens=decoupled with --config.ppo.baseline=same_answer: samples with the same answer "
            "are equally correct, so that answers would not be trained; give baseline=leave_one_out."
        )
    if ppo.uses_critic:
        raise ValueError(
            f"--config.advantage.tokens=decoupled with --config.ppo.baseline={ppo.baseline}: a critic predicts one "
            "score, not one for answers and one for confidence; give baseline=leave_one_out."
        )
    if rewards.name in reward.REWARDS and rewards.name not in reward.WITH_CORRECTNESS:
        raise ValueError(
            f"--config.advantage.tokens=decoupled with --config.reward.name={rewards.name}, which has no part for the "
            f"answer alone; give reward.name={' or '.join(reward.WITH_CORRECTNESS)}."
        )


def warnings(
    ppo: PPOSettings, rewards: reward.RewardSettings, advantages: AdvantageSettings, loss: LossSettings
) -> list[str]:
    """Returns a message for each setting whose expected gradient is not that of the objective that it names."""
    messages = [_STD] if advantages.group_std and rewards.name != "factuality" else []
    for place, estimator in (("advantage", advantages.kl), ("loss", loss.kl)):
        bias = kl.BIASES.get((place, estimator))
        if bias and ppo.kl_coef:
            messages.append(
                f"--config.{place}.kl={estimator}: its expected gradient is {bias}, not that of "
                "KL(policy | reference); k1 in advantage.kl, or k2 in loss.kl, has that."
            )
    if rewards.name == "rewarding_doubt" and advantages.tokens != "confidence":
        messages.append(
            "--config.reward.name=rewarding_doubt rewards a surely wrong answer with confidence 0 as much as a surely "
            "right one with 1: freeze the answers by --config.advantage.tokens=confidence."
        )
    return messages
