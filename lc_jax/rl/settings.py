"""The sizes and limits of a PPO run (`config.ppo`), checked against one another before anything is loaded."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Iterator, Sequence

import numpy as np

from lc_jax.data import batches
from lc_jax.preflight import (
    NATURAL,
    NON_NEGATIVE,
    POSITIVE,
    POSITIVE_INT,
    check_all,
    check_settings,
    divisors,
)
from lc_jax.rl.advantage import BASELINES
from lc_jax.types import Question


@dataclasses.dataclass(frozen=True)
class PPOSettings:
    """A minibatch_size above the rollout is the rollout, a microbatch_size above the minibatch is the minibatch.

    Raises:
      ValueError: a value that cannot be, or sizes that do not divide; one line for each, with flag and remedy.
    """

    num_steps: int
    rollout_batch_size: int  # episodes a step: questions x num_samples
    num_samples: int  # paragraphs a question
    num_epochs: int
    minibatch_size: int  # episodes an optimiser step
    microbatch_size: int  # episodes of a forward or backward pass of policy, reference and critic; 0: as many as fit
    decode_batch_size: int  # 0: as many as fit
    frozen_on_host: bool
    query_length: int  # tokens
    response_length: int  # tokens
    temperature: float
    kl_coef: float
    baseline: str  # one of BASELINES
    stop_penalty: bool
    eval_every: int  # steps; 0: only after the last one
    save_every: int  # steps; 0: only after the last one
    keep: int  # checkpoints
    num_validation: int  # questions; 0: no evaluation
    num_candidates: int
    first_candidate: int  # step
    max_ratio_deviation: float  # mean |ratio - 1|; 0: rl/consistency.py
    max_sampling_gap: float  # nats, mean; 0: rl/consistency.py
    clean_up: bool = False

    def __post_init__(self) -> None:
        check_all(self._check_ranges)  # the sizes below are numbers then
        object.__setattr__(self, "minibatch_size", min(self.minibatch_size, self.rollout_batch_size))
        object.__setattr__(self, "microbatch_size", min(self.microbatch_size, self.minibatch_size))
        check_all(self._check_samples, self._check_minibatches, self._check_baseline, self._check_candidates)

    def _check_ranges(self) -> None:
        counts = [
            "num_steps", "rollout_batch_size", "num_samples", "num_epochs", "minibatch_size", "query_length",
            "response_length", "keep",
        ]  # fmt: skip
        naturals = [
            "microbatch_size", "decode_batch_size", "eval_every", "save_every", "num_validation", "num_candidates",
            "first_candidate",
        ]  # fmt: skip
        check_settings(
            "ppo", self, temperature=POSITIVE, kl_coef=NON_NEGATIVE, baseline=BASELINES,
            max_ratio_deviation=NON_NEGATIVE, max_sampling_gap=NON_NEGATIVE,
            **dict.fromkeys(counts, POSITIVE_INT), **dict.fromkeys(naturals, NATURAL),
        )  # fmt: skip

    def _check_samples(self) -> None:
        if self.rollout_batch_size % self.num_samples:
            below = self.rollout_batch_size // self.num_samples * self.num_samples
            sizes = " or ".join(str(n) for n in (below, below + self.num_samples) if n)
            raise ValueError(
                f"--config.ppo.num_samples={self.num_samples} does not divide --config.ppo.rollout_batch_size="
                f"{self.rollout_batch_size}: give a rollout_batch_size of {sizes}, or num_samples of "
                f"{divisors(self.rollout_batch_size, self.num_samples)}."
            )

    def _check_minibatches(self) -> None:
        if self.rollout_batch_size % self.minibatch_size:
            raise ValueError(
                f"--config.ppo.minibatch_size={self.minibatch_size} does not divide --config.ppo.rollout_batch_size="
                f"{self.rollout_batch_size}: give a minibatch_size of "
                f"{divisors(self.rollout_batch_size, self.minibatch_size)}."
            )

    def _check_baseline(self) -> None:
        if not self.uses_critic and self.num_samples < 2:
            raise ValueError(
                f"--config.ppo.num_samples={self.num_samples}: baseline {self.baseline!r} compares samples of a "
                "question; give 2 or more."
            )

    def _check_candidates(self) -> None:
        if self.num_candidates and not self.num_validation:
            raise ValueError(
                "--config.ppo.num_validation=0: candidates are chosen by their validation reward; give 1 or more, or "
                "--config.ppo.num_candidates=0."
            )

    @property
    def uses_critic(self) -> bool:
        """True if a value model is trained."""
        return self.baseline.startswith("critic")

    @property
    def updates_per_step(self) -> int:
        """Optimiser steps on one rollout: what the learning rate's schedule counts."""
        return self.num_epochs * math.ceil(self.rollout_batch_size / self.minibatch_size)

    def evaluates_after(self, step: int) -> bool:
        """Returns whether an evaluation follows after `step` steps."""
        if not self.num_validation:
            return False
        return step == self.num_steps or (self.eval_every > 0 and step % self.eval_every == 0)

    def check_questions(self, num_questions: int) -> None:
        """Checks that there are enough questions for a rollout.

        Raises:
          ValueError: there are fewer; the message names the flag and the largest size.
        """
        if num_questions * self.num_samples < self.rollout_batch_size:
            raise ValueError(
                f"--config.ppo.rollout_batch_size={self.rollout_batch_size} takes "
                f"{self.rollout_batch_size // self.num_samples} questions a step; there are {num_questions}: give "
                f"{max(num_questions * self.num_samples, self.num_samples)} or less."
            )


def queries(questions: Sequence[Question], settings: PPOSettings, seed: int, first: int) -> Iterator[list[Question]]:
    """Yields endless rollout batches from number `first` on, shuffled each epoch, each question `num_samples` times."""
    count = settings.rollout_batch_size // settings.num_samples
    indices = batches.BatchIndices(np.zeros(len(questions), np.int64), count, seed)
    for step in itertools.count(first):
        yield [questions[i] for i in indices(step) for _ in range(settings.num_samples)]
