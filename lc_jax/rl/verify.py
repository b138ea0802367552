"""Checks that training computes what it says, each a number with its limit; they call the production functions.

Here are those on literal numbers, which need no model and take a second: PPO makes them before its first step
(`require`). lc_jax/rl/verify_models.py checks models.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from absl import logging

from lc_jax.data.tokenizer import Tokenizer
from lc_jax.inference.generate import Completion, Sampling
from lc_jax.rl import advantage, batch, reward, rollout, telemetry
from lc_jax.rl.outcomes import Outcomes
from lc_jax.rl.reader import AnswerForecasts, Reading
from lc_jax.text_table import table
from lc_jax.types import PromptText

Verdict = Literal["ok", "FAILED", "skipped"]
ROUNDING = 1e-5  # limit of float32 arithmetic on literal numbers


class Skipped(Exception):
    """Raised for a check that does not apply; the message is the reason."""


@dataclasses.dataclass(frozen=True)
class Measured:
    """A measured number with its limit: it is ok where value <= limit (NaN is not)."""

    value: float
    limit: float
    unit: str = ""


@dataclasses.dataclass(frozen=True)
class Result:
    """One line of the table."""

    name: str
    verdict: Verdict
    details: str  # the measured value and its limit, or the reason

    @classmethod
    def of(cls, name: str, check: Callable[[], Measured]) -> Result:
        """Runs a check; an error in it is a failure, with its message."""
        try:
            measured = check()
        except Skipped as reason:
            return cls(name, "skipped", str(reason))
        except Exception as error:  # a fault may show as any of them
            return cls(name, "FAILED", f"{type(error).__name__}: {' '.join(str(error).split())[:200]}")
        verdict: Verdict = "ok" if measured.value <= measured.limit else "FAILED"
        return cls(name, verdict, f"{measured.value:.3g}{measured.unit} (limit {measured.limit:.3g})")


def largest(values: Iterable[Any]) -> float:
    """Returns the largest of some numbers or arrays, NaN where one is NaN, which Python's `max` may leave out."""
    return float(np.max([np.max(np.asarray(value, float), initial=-np.inf) for value in values]))


def render(results: Iterable[Result]) -> str:
    """Returns the results as text, one line for each."""
    return table([[row.verdict, row.name, row.details] for row in results], align="l")


def require(results: Iterable[Result]) -> None:
    """Refuses to continue where a check failed.

    Raises:
      ValueError: names each check and what it measured.
    """
    failed = [f"{row.name}: {row.details}" for row in results if row.verdict == "FAILED"]
    if failed:
        raise ValueError(
            f"PPO does not compute what it says: {'; '.join(failed)}. --config.advantage and --config.reward decide "
            "these numbers: take their defaults; where that does not help, the program or a library has a fault."
        )


# --- literal rollouts ------------------------------------------------------------------------------------------------

PROMPTS = [[3, 9, 4], [11, 2]]
RESPONSES = [[5, 0], [31, 12, 7]]  # token 0 fills up rows: here it is also the end of sequence


def _episodes() -> batch.Episodes:
    return batch.pack(PROMPTS, [Completion(r, [0.0] * len(r), True) for r in RESPONSES])


def packing() -> Measured:
    """Rows hold their prompt, then their response, and the mask covers the response with its end of sequence."""
    episodes, wrong = _episodes(), 0
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        mask = [t < len(response) for t in range(episodes.mask.shape[1])]
        wrong += list(episodes.tokens[row][: len(prompt) + len(response)]) != prompt + response
        wrong += list(episodes.responses[row][: len(response)]) != response
        wrong += episodes.mask[row].tolist() != mask
    return Measured(wrong, 0, " rows wrong")


def gathering() -> Measured:
    """Checks that the values gathered for a response token are those of the position before it."""
    episodes = _episodes()
    width = episodes.tokens.shape[1]
    every = jnp.arange(2 * width).reshape(2, width)
    numbers = np.asarray(rollout.gather_response_positions(every, episodes.prompt_lengths, episodes.mask.shape[1]))
    firsts = [row * width + len(prompt) - 1 for row, prompt in enumerate(PROMPTS)]
    return Measured(largest(
        np.abs(numbers[row, : len(response)] - first - np.arange(len(response)))
        for row, (first, response) in enumerate(zip(firsts, RESPONSES, strict=True))
    ), 0, " positions off")  # fmt: skip


def terminal_reward() -> Measured:
    """The score of each response is at its last real token, and nowhere else."""
    episodes, scores = _episodes(), np.asarray([2.5, -1.5], np.float32)
    zeros = np.zeros(episodes.mask.shape, np.float32)
    shaped = advantage.shape_rewards(scores, zeros, zeros, episodes.lengths, 0.1, clamp=False)
    expected = zeros.copy()
    for row, response in enumerate(RESPONSES):
        expected[row, len(response) - 1] = scores[row]
    return Measured(float(np.abs(shaped - expected).max()), ROUNDING)


def padding_in_advantages(settings: advantage.AdvantageSettings) -> Measured:
    """NaN and random numbers past the end of a response change neither advantages nor returns."""
    if not settings.masked:
        raise Skipped("advantage.masked=False counts padding, as the published code does")
    rng, mask = np.random.default_rng(0), _episodes().mask
    settings = dataclasses.replace(settings, whiten_groups=1)

    def estimate(fill: float) -> np.ndarray:
        values = np.asarray([[0.5, 0.2, fill, fill], [0.1, 0.7, -0.3, fill]], np.float32)
        episodes = dataclasses.replace(_episodes(), old_values=values)
        episodes, _ = advantage.estimate(episodes, np.asarray([1.0, -2.0], np.float32), 0.1, settings)
        return np.concatenate([x[mask] for x in (episodes.advantages, episodes.returns)])

    expected = estimate(0.0)
    others = [estimate(fill) for fill in (np.nan, *rng.normal(0, 100, 2))]
    return Measured(largest(np.abs(other - expected) for other in others), ROUNDING)


def proper_reward(settings: reward.RewardSettings) -> Measured:
    """Checks that the true probability has the best expected reward on a grid, and that rewards are not rounded."""
    grid = np.arange(1, 20) / 20
    settings = dataclasses.replace(settings, target="outcome")

    logits = np.log(grid / (1 - grid)).astype(np.float32)
    both = np.stack([logits, -logits], axis=1)  # two answers, with forecasts q and 1 - q

    def rewards(truth: int) -> np.ndarray:
        forecasts = AnswerForecasts(both[:, truth], both, np.ones(both.shape, bool))
        rows = np.arange(len(grid))  # each paragraph has a question of its own
        clusters = np.stack([0 * rows + truth, 0 * rows + 1 - truth], axis=1)
        total = reward.compute(forecasts, Outcomes(clusters, rows, rows.astype(np.float32)), settings).total
        if not np.issubdtype(total.dtype, np.floating):
            raise TypeError("rewards are not floating-point numbers")
        return reward.penalize_unstopped(total, np.ones(len(grid), bool))

    right, wrong = rewards(0), rewards(1)  # where the answer with forecast q is true, and where the other is
    penalty = reward.penalize_unstopped(right[:1], np.zeros(1, bool), -0.5)[0]
    expected = grid[:, None] * right + (1 - grid)[:, None] * wrong  # [true probability, forecast]
    if settings.name == "factuality":  # a verdict: the best forecast is on the right side of 1/2
        loss = expected.max(axis=1) - np.where(grid > 0.5, expected[:, -1], expected[:, 0])
        return Measured(largest([loss, abs(penalty + 0.5)]), ROUNDING)
    if not np.isfinite(expected).all():  # argmax takes NaN for the largest
        raise ValueError("rewards are not finite")
    distances = np.abs(grid[expected.argmax(axis=1)] - grid)
    if settings.name not in reward.REWARDS and distances.max() > ROUNDING:
        worst = distances.argmax()
        reason = (
            f"{settings.name} is not proper: where the true probability is {grid[worst]:.2f}, the best forecast is "
        )
        reason += f"{grid[expected[worst].argmax()]:.2f}"
        logging.warning("The reward %s.", reason)
        raise Skipped(reason)
    return Measured(largest([distances, abs(penalty + 0.5)]), ROUNDING, " from the true probability")


def reader_metrics() -> Measured:
    """Checks that a step's metrics of the reader come from its forecasts and the ground truth, not the reward."""
    logit = np.float32(np.log(3.0))  # p = 3/4
    answers = np.asarray([[logit, 0.0], [0.0, logit]], np.float32)
    forecasts = AnswerForecasts(np.asarray([logit, -logit]), answers, np.asarray([[1, 0], [1, 1]]) > 0)
    total, log_score, penalty = np.asarray([[9.0, -9.0], [-1.0, -2.0], [-3.0, -4.0]], np.float32)
    rewards = reward.Rewards(total, {"log_score": log_score, "normalization": penalty})
    reported = telemetry.of_reading(Reading([["a"], ["b", "c"]], forecasts, 0), rewards)
    expected = {
        "reward": 0.0, "reward/log_score": -1.5, "reward/normalization": -3.5, "reader/truth_prob": 0.5,
        "reader/answers_per_paragraph": 1.5, "reader/forecast_mass": 1.0, "reader/confidence": 0.75,
    }  # fmt: skip
    return Measured(largest(abs(reported[name] - value) for name, value in expected.items()), ROUNDING)


def calibration_metrics(metrics: Mapping[str, Callable[[np.ndarray, np.ndarray], float]]) -> Measured:
    """Metrics hold stated confidence against what was judged correct; literal values.

    Args:
      metrics: "brier" and "ece" of confidences and verdicts.
    """
    confidences, correct = np.asarray([0.75] * 4 + [0.25] * 4), np.asarray([1, 1, 1, 0, 0, 0, 0, 0]) > 0
    # Brier: (3/16 + 9/16) / 8 + 4/16 / 8; calibration error: 0 of the first four, 1/4 of the others.
    expected = {"brier": (3 / 16 + 9 / 16 + 4 / 16) / 8, "ece": 0.125}
    return Measured(largest(abs(metrics[n](confidences, correct) - v) for n, v in expected.items()), ROUNDING)


# --- tokens ----------------------------------------------------------------------------------------------------------


def special_tokens(tokenizer: Tokenizer, prompt: PromptText, sampling: Sampling | None) -> Measured:
    """Begin, stop and padding tokens are those of transformers' tokenizer and of the checkpoint's own files.

    Args:
      sampling: of the production code; None: of a model that samples nothing only the prompt is compared.
    """
    ids, hf = tokenizer.encode_prompt(prompt), tokenizer.hf
    if hf is None:
        raise Skipped("the checkpoint has no tokenizer files")
    stops, wrong = _stops(tokenizer), []
    if isinstance(prompt, str):
        expected = list(hf(prompt, split_special_tokens=True)["input_ids"])
        while expected and expected[-1] in stops:  # some tokenizers append the end of sequence
            expected.pop()
    else:
        turns = [{"role": message.role, "content": message.content} for message in prompt]
        text = hf.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
        expected = list(hf(text, add_special_tokens=False)["input_ids"])
    if ids != expected:
        ends = [f"{tokens[:3]} ... {tokens[-2:]}" for tokens in (ids, expected)]
        wrong.append(f"the prompt is {ends[0]}, the tokenizer makes it {ends[1]}")
    if isinstance(prompt, str):
        joined, num_prompt = tokenizer.encode_pair(prompt, " It is so.")
        if joined[: len(ids) - 1] != ids[:-1] or not 0 < num_prompt < len(joined):
            wrong.append("prompt and completion together begin with other tokens than the prompt")
    missing = set() if sampling is None else (stops | {tokenizer.end_id(prompt)}) - set(sampling.eos_ids)
    if missing:
        wrong.append(f"stop tokens {sorted(missing)} do not stop")
    pad = None if hf.pad_token_id in stops or hf.pad_token_id in expected[:1] else hf.pad_token_id
    if sampling is not None and sampling.pad_id != pad:
        wrong.append(f"pad is {sampling.pad_id}, the tokenizer's is {pad}")
    if wrong:
        raise ValueError("; ".join(wrong))
    return Measured(0, 0, " tokens wrong")


def _stops(tokenizer: Tokenizer) -> set[int]:
    """Returns the stop tokens of generation_config.json, config.json and transformers' tokenizer, read again."""
    stops = {tokenizer.hf.eos_token_id} if tokenizer.hf is not None else set()
    for file in (Path(tokenizer.name) / name for name in ("generation_config.json", "config.json")):
        ids = json.loads(file.read_text("utf-8")).get("eos_token_id") if file.is_file() else None
        stops |= set(ids) if isinstance(ids, list) else {ids}
    return stops - {None}


def arithmetic(advantages: advantage.AdvantageSettings, rewards: reward.RewardSettings) -> list[Result]:
    """Makes all checks of PPO's arithmetic on literal numbers."""
    checks: dict[str, Callable[[], Measured]] = {
        "prompt, response and mask of a row": packing,
        "positions that predict a response": gathering,
        "the reward is at the last real token": terminal_reward,
        "padding does not reach advantages": lambda: padding_in_advantages(advantages),
        "the reward is proper": lambda: proper_reward(rewards),
        "what is reported of the reader": reader_metrics,
    }
    return [Result.of(name, check) for name, check in checks.items()]
