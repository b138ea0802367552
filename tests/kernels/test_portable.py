"""Every fast path off (config.kernels=portable) trains as they do: twelve PPO steps of the miniature."""

import json

import jax
import numpy as np
import pytest

from configs import base
from lc_jax.kernels import dispatch
from lc_jax.rl import writer
from lc_jax.tasks import ppo
from tests import programs
from tests.test_configs import config_of

STEPS = 12
TOLERANCE = 1e-3  # of losses, nats and the gradient's norm: Adam makes whole steps of gradients that are only rounding
SIZES = {"num_steps": STEPS, "rollout_batch_size": 16, "minibatch_size": 16, "microbatch_size": 8, "num_samples": 4}
SIZES |= {"decode_batch_size": 16, "response_length": 16, "num_validation": 4}
SIZES |= {"save_every": STEPS, "eval_every": STEPS, "baseline": "critic"}


def metrics_of(output, kernels):
    config = config_of("ppo", "mini")
    config.kernels = kernels
    assert config.precision.kernels == kernels
    config.policy = config.critic = config.reader.forecaster = base.LLAMA
    config.reader.extractor, config.reader.batch_size = base.GPT_NEOX, 16
    config.ppo.update(SIZES)
    config.output = str(output)
    mesh = programs.mesh_of()
    with jax.set_mesh(mesh):
        ppo.run(config, mesh)
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_the_same_losses_over_twelve_ppo_steps(tmp_path, monkeypatch):
    """Both learn from the same texts: one token drawn otherwise, and they would be different runs.

    The alarm on log-probabilities while sampling compares the texts' own with what the portable kernels say of them.
    """
    assert (dispatch.attention_implementation("auto", "float32", 32), dispatch.logprobs_implementation("auto")) == (
        "blocked",
        "analytic",
    )
    write, texts = writer.PolicyWriter.write, []

    def record(self, *args):
        texts.append(write(self, *args))
        return texts[-1]

    monkeypatch.setattr(writer.PolicyWriter, "write", record)
    fast = metrics_of(tmp_path / "fast", "auto")
    monkeypatch.setattr(writer.PolicyWriter, "write", lambda *_: texts.pop(0))
    portable = metrics_of(tmp_path / "portable", "portable")
    assert len(fast) == len(portable) == STEPS
    for name in ("loss", "loss/policy", "loss/value", "policy/entropy", "kl", "grad_norm"):
        a, b = ([row[name] for row in rows] for rows in (fast, portable))
        np.testing.assert_allclose(a, b, rtol=TOLERANCE, atol=TOLERANCE, err_msg=name)
    assert np.ptp([row["loss"] for row in fast]) > 10 * TOLERANCE
