"""Logs of a PPO step: metrics from host arrays, and rollouts as readable JSONL."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import logging

from lc_jax.data.jsonl import append_jsonl, read_jsonl, write_jsonl
from lc_jax.preflight import NON_NEGATIVE, POSITIVE, PROBABILITY, check_settings
from lc_jax.prompts.parsing import distinct_answers
from lc_jax.rl.batch import Episodes
from lc_jax.rl.reader import Reading
from lc_jax.rl.reward import Rewards, probability
from lc_jax.types import Question


class Phases:
    """Seconds spent in each phase of a step."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextlib.contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Adds the time of the with-block to phase `name`."""
        started = time.monotonic()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.monotonic() - started

    def report(self, num_tokens: int) -> dict[str, float]:
        """Seconds and tokens per second by phase, for `num_tokens` prompt and response tokens."""
        report = {f"seconds/{name}": value for name, value in self.seconds.items()}
        return report | {f"tokens_per_second/{name}": num_tokens / value for name, value in self.seconds.items()}


def of_reading(reading: Reading, rewards: Rewards) -> dict[str, Any]:
    """Rewards and their true components, answers per paragraph, and what the reader believes.

    `confidence_histogram` holds the share of paragraphs by the highest forecast, in ten equal bins of [0, 1].
    """
    mask = np.asarray(reading.forecasts.answer_mask)
    probs = np.where(mask, probability(reading.forecasts.answer_logits), 0.0)
    truth = probability(reading.forecasts.target_logits)
    counts, best = mask.sum(axis=1), probs.max(axis=1)
    histogram = np.histogram(best[counts > 0], bins=10, range=(0, 1))[0] / max(len(best), 1)
    return {
        "reward": float(np.mean(rewards.total)),
        **{f"reward/{name}": float(np.mean(part)) for name, part in rewards.parts.items()},
        "reader/truth_prob": float(truth.mean()),
        "reader/answers_per_paragraph": float(counts.mean()),
        "reader/no_answer_rate": float(np.mean([not distinct_answers(answers) for answers in reading.answers])),
        "reader/unreadable_rate": float(np.mean(list(map(bool, reading.refusals)))) if reading.refusals else 0.0,
        "reader/answers_dropped": reading.num_dropped,
        "reader/forecast_mass": float(probs.sum(axis=1).mean()),
        "reader/confidence": float(best.mean()),
        "reader/confidence_histogram": [round(float(x), 4) for x in histogram],
    }


def of_rollout(episodes: Episodes, finished: Sequence[bool]) -> dict[str, float]:
    """Length, stop rate, entropy, and two unbiased estimates of KL(policy | reference), nats per response.

    k1 = sum of log pi - log ref; k3 = sum of ref/pi - 1 - log(ref/pi), never negative and of lower variance.
    """
    mask = episodes.mask
    log_ratio = np.where(mask, episodes.ref_logprobs - episodes.old_logprobs, 0.0)
    return {
        "rollout/length": float(mask.sum(axis=1).mean()),
        "rollout/stop_rate": float(np.mean(finished)),
        "rollout/entropy": float(np.where(mask, episodes.entropies, 0.0).sum() / mask.sum()),
        "kl": float(0.0 - log_ratio.sum(axis=1).mean()),
        "kl/k3": float((np.expm1(log_ratio) - log_ratio).sum(axis=1).mean()),
    }


@dataclasses.dataclass(frozen=True)
class Alarms:
    """Limits beyond which a step's statistics are called out; they stop nothing unless `stop`."""

    max_kl: float  # nats per response
    min_entropy: float  # nats per token
    min_stop_rate: float  # share of responses that end by themselves
    max_same_confidence: float  # share of paragraphs in one tenth of [0, 1]: a collapsed policy says one thing
    max_no_answer_rate: float  # share of paragraphs in which the reader finds no answer; 1: no alarm
    stop: bool

    def __post_init__(self) -> None:
        shares = dict.fromkeys(("min_stop_rate", "max_same_confidence", "max_no_answer_rate"), PROBABILITY)
        check_settings("alarms", self, max_kl=POSITIVE, min_entropy=NON_NEGATIVE, **shares)

    def check(self, step: int, stats: Mapping[str, Any], run: Path) -> None:
        """Logs a warning for each statistic of a step that is beyond its limit.

        Args:
          run: the folder of the run, for the message.

        Raises:
          FloatingPointError: there is one, and `stop` is set.
        """
        alarms = self.of(stats)
        for words in alarms:
            logging.warning("Step %d: %s (alarms in the config)", step, words)
        if alarms and self.stop:
            raise FloatingPointError(f"Stopped at step {step}: {'; '.join(alarms)}. Checkpoints: {run}/checkpoints.")

    def of(self, stats: Mapping[str, Any]) -> list[str]:
        """Returns a message for each limit that is exceeded."""
        same, silent = max(stats["reader/confidence_histogram"], default=0.0), stats["reader/no_answer_rate"]
        alarms = {
            f"KL {stats['kl']:.3g} nats a response, over max_kl {self.max_kl:g}": stats["kl"] > self.max_kl,
            f"entropy {stats['rollout/entropy']:.3g} nats a token, under min_entropy {self.min_entropy:g}": (
                stats["rollout/entropy"] < self.min_entropy
            ),
            f"only {stats['rollout/stop_rate']:.0%} of responses end, under min_stop_rate {self.min_stop_rate:.0%}": (
                stats["rollout/stop_rate"] < self.min_stop_rate
            ),
            f"{same:.0%} of paragraphs state the same confidence, over max_same_confidence "
            f"{self.max_same_confidence:.0%}": same > self.max_same_confidence,
            f"the reader found no answer in {silent:.0%} of paragraphs, max_no_answer_rate is "
            f"{self.max_no_answer_rate:.0%}: is --config.reader.extractor trained, and with these templates?": (
                1 > self.max_no_answer_rate <= silent
            ),
        }
        return [words for words, holds in alarms.items() if holds]


class RolloutLog:
    """`rollouts.jsonl` and `validation.jsonl`: a readable row per episode. Rows from `first_step` on are dropped."""

    def __init__(self, path: Path, first_step: int) -> None:
        self._path = path
        rows = read_jsonl(path, allow_partial_line=True) if path.exists() else []
        write_jsonl(path, [row for row in rows if row["step"] < first_step])

    def write(self, step: int, rows: Iterable[dict[str, Any]]) -> None:
        """Appends a step's rows (see `episode_rows`)."""
        append_jsonl(self._path, ({"step": step, **row} for row in rows))


def episode_rows(
    questions: Sequence[Question], paragraphs: Sequence[str], reading: Reading, rewards: Rewards
) -> Iterator[dict[str, Any]]:
    """A readable row for each of `questions`, with its paragraph, forecasts and reward."""
    truth = probability(reading.forecasts.target_logits)
    probs = probability(reading.forecasts.answer_logits)
    for i, question in enumerate(questions):
        refusal = {"unreadable": reading.refusals[i]} if reading.refusals and reading.refusals[i] else {}
        yield refusal | {
            "question_id": question.question_id,
            "prompt": question.prompt,
            "paragraph": paragraphs[i],
            "question": question.question,
            "answer": question.answer,
            "answer_prob": round(float(truth[i]), 4),
            "extracted": {a: round(float(p), 4) for a, p in zip(reading.answers[i], probs[i], strict=False)},
            "reward": round(float(rewards.total[i]), 4),
        }


def check_rollout(where: str, questions: Sequence[Question], episodes: Episodes) -> None:
    """Refuses log-probabilities and values of response tokens that are not finite; see `check_episodes`."""
    values: dict[str, Any] = {
        "log-probability": episodes.old_logprobs,
        "log-probability of the reference": episodes.ref_logprobs,
        "value": episodes.old_values,
    }
    check_episodes(where, questions, {name: np.where(episodes.mask, array, 0.0) for name, array in values.items()})


def check_episodes(where: str, questions: Sequence[Question], values: Mapping[str, np.ndarray]) -> None:
    """Refuses numbers that are not finite, each array with a row for each of `questions`.

    Raises:
      FloatingPointError: names the kind of number, the questions and `where`.
    """
    for name, array in values.items():
        bad = ~np.isfinite(np.asarray(array)).reshape(len(questions), -1).all(axis=1)
        if bad.any():
            ids = list(dict.fromkeys(q.question_id for q, is_bad in zip(questions, bad, strict=True) if is_bad))
            raise FloatingPointError(
                f"The {name} of {bad.sum()} of {len(questions)} episodes {where} is not finite; their questions are "
                f"{ids[:10]}. Look at the models' weights; a low-precision compute_dtype may overflow."
            )
