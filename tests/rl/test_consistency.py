"""Sampling, scoring and the first update agree, in float32 and bfloat16; what is planted against it is found."""

import dataclasses
import importlib
import json

import jax
import numpy as np
import pytest

from configs import base
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.inference import generate
from lc_jax.inference.generate import Completion
from lc_jax.kernels.attention import RowMask
from lc_jax.models import folders, hf, registry, transformer
from lc_jax.models.transformer import CausalLM
from lc_jax.rl import batch, consistency, loss, rollout, update
from tests import programs
from tests.test_configs import config_of

PROMPTS = [[3, 9], [11, 2, 8], [40]]
RESPONSES = [[5, 17, 2], [31, 12], [7]]


def scored(logprobs):
    completions = [Completion(t, [0.0] * len(t), True) for t in RESPONSES]
    return dataclasses.replace(batch.pack(PROMPTS, completions), old_logprobs=logprobs)


def test_the_sampling_gap_is_of_real_tokens_alone():
    logprobs = np.full((3, 4), -1.0, np.float32)
    sampled = [[-1.0, -1.25, -1.0], [-0.5, -1.0], [-1.0]]  # off by 0.25 and 0.5 in 6 tokens
    completions = [Completion(tokens, lp, True) for tokens, lp in zip(RESPONSES, sampled, strict=True)]
    gap = consistency.SamplingGap.of(scored(logprobs), completions)
    assert gap.mean == pytest.approx(0.75 / 6)
    assert gap.p99 == pytest.approx(0.25 + 0.25 * 0.95)  # 4.95 of 5 steps along the sorted gaps
    assert consistency.SamplingGap.of(scored(logprobs), []) == consistency.SamplingGap(0.0, 0.0)


def test_limits_follow_from_the_rounding_noise_and_settings_override_them():
    assert consistency.Limits.of(0.0) == consistency.Limits(0.0025, 0.0125)
    assert consistency.Limits.of(0.5) == consistency.Limits(1.0025, 2.5125)
    assert consistency.Limits.of(0.5, max_sampling_gap=0.3) == consistency.Limits(1.0025, 0.3)
    assert consistency.Limits.of(0.5, max_ratio_deviation=0.1) == consistency.Limits(0.1, 2.5125)


def test_each_message_names_the_setting_that_allows_what_it_measured():
    limits = consistency.Limits(0.02, 0.1)
    limits.check_sampling(consistency.SamplingGap(0.1, 1.0))
    limits.check_ratio(0.02)
    for gap in ((0.11, 0.1), (0.1, 1.01), (np.nan, np.nan)):
        with pytest.raises(FloatingPointError, match=r"limit 0\.1\).*--config\.ppo\.max_sampling_gap="):
            limits.check_sampling(consistency.SamplingGap(*gap))
    for deviation in (0.021, np.nan):
        with pytest.raises(FloatingPointError, match=r"limit 0\.02\).*--config\.ppo\.max_ratio_deviation="):
            limits.check_ratio(deviation)
    with pytest.raises(FloatingPointError, match=r"max_sampling_gap=0\.3 "):
        limits.check_sampling(consistency.SamplingGap(0.1, 2.0))
    consistency.Limits(0.02, 0.3).check_sampling(consistency.SamplingGap(0.1, 2.0))


def test_a_rollout_is_scored_in_the_micro_batches_of_the_first_epoch(monkeypatch):
    rng = np.random.default_rng(0)
    completions = [Completion([5] * int(n), [0.0] * int(n), True) for n in rng.integers(1, 30, 24)]
    episodes = batch.pack([[3]] * 24, completions)
    sizes = update.UpdateSettings(2, 12, 4, 1.0, loss.LossSettings())
    groups = [rows.tolist() for rows in episodes.first_microbatches(12, 4, seed=3)]
    computed = []

    def ppo_step(state, structure, minibatch, *, tx, settings):
        for rows in minibatch.groups(settings.microbatch_size):
            computed.append(minibatch.take(rows).old_logprobs[:, 0].astype(int).tolist())
        return state, {}

    monkeypatch.setattr(update, "ppo_step", ppo_step)
    numbers = np.repeat(np.arange(24.0)[:, None], episodes.mask.shape[1], axis=1)
    episodes = dataclasses.replace(episodes, old_logprobs=numbers)
    update.update(None, None, episodes, tx=None, settings=sizes, seed=3)
    assert groups == computed[:6]
    assert sorted(np.concatenate(groups).tolist()) == list(range(24))
    assert len(computed) == 12  # the second epoch's are others


def wrong_temperature(patch):
    scored = CausalLM.logprobs
    patch.setattr(CausalLM, "logprobs", lambda self, hidden, targets, t: scored(self, hidden, targets, t / 0.7))


def position_shifted(patch):
    decode = CausalLM.decode
    patch.setattr(CausalLM, "decode", lambda self, token, starts, *args: decode(self, token, starts - 1, *args))


def padding_attended(patch):
    read = transformer.decode_attention
    patch.setattr(
        transformer, "decode_attention", lambda q, k, v, mask, *a: read(q, k, v, RowMask(0 * mask.starts), *a)
    )


def stale_weights(patch):
    """The sampler keeps the weights of before an update."""
    patch.setattr(
        generate, "for_decoding", lambda model: model.with_params(jax.tree.map(lambda x: 0.9 * x, model.params))
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "dtype"),
    [
        (None, "float32"),
        *((f, "bfloat16") for f in (None, wrong_temperature, position_shifted, padding_attended, stale_weights)),
    ],
)
def test_a_sampler_that_does_not_draw_from_what_is_scored_is_refused(fault, dtype, monkeypatch):
    mesh = programs.mesh_of()
    subjects = ("population", "country", "clock", "a b c population of the country", "x", "clock and clock")
    texts = [f"Write about the {subject} of the town of Kofu." for subject in subjects]
    prompts = [load_tokenizer(base.LLAMA).encode_prompt(text) for text in texts]
    jax.clear_caches()
    with jax.set_mesh(mesh), monkeypatch.context() as patch:
        policy = hf.load(base.LLAMA, mesh, compute_dtype=dtype)
        if fault:
            fault(patch)
        sampling = generate.Sampling(24, 0.7, eos_ids=policy.config.eos_ids)
        completions = generate.generate(policy, prompts * 4, sampling, seed=0, batch_size=24)
        episodes = batch.pack(prompts * 4, completions)
        rows = list(episodes.groups(8))
        episodes = rollout.score_rollout(policy, policy, None, episodes, temperature=0.7, groups=rows)
        noise = consistency.rounding_noise(policy, episodes, 8, 0.7)
        gap = consistency.SamplingGap.of(episodes, completions)
    jax.clear_caches()
    print(fault and fault.__name__, dtype, noise, gap)
    assert noise < (1e-6 if dtype == "float32" else 0.02)
    limits = consistency.Limits.of(noise)
    if fault is None:
        return limits.check_sampling(gap)
    with pytest.raises(FloatingPointError):
        limits.check_sampling(gap)


@pytest.mark.slow
def test_eight_steps_of_a_random_llama_of_30_layers_in_bfloat16_raise_no_alarm(tmp_path):
    mesh = programs.mesh_of()
    small = folders.config_of(base.LLAMA)[0]
    deep = dataclasses.replace(
        small, hidden_size=32, intermediate_size=64, num_layers=30, num_heads=4, num_kv_heads=4, head_dim=8,
        rotary_dim=8, initializer_range=0.2, tied_embeddings=False,
    )  # fmt: skip
    with jax.set_mesh(mesh):
        for kind in ("causal", "scalar"):
            model = registry.initialize(deep, jax.random.key(0), mesh, kind)
            hf.save(tmp_path / kind, model, tokenizer=load_tokenizer(base.LLAMA))
        config = config_of("ppo", "mini")
        config.policy, config.critic = str(tmp_path / "causal"), str(tmp_path / "scalar")
        config.reader.forecaster, config.reader.extractor, config.reader.batch_size = base.LLAMA, base.GPT_NEOX, 16
        config.precision.update(compute_dtype="bfloat16", remat="full")
        config.ppo.update(
            num_steps=8, rollout_batch_size=16, num_samples=1, minibatch_size=16, microbatch_size=8,
            decode_batch_size=16, response_length=16, num_validation=0, save_every=0, baseline="critic",
            temperature=0.7,
        )  # fmt: skip
        config.output = str(tmp_path / "run")
        importlib.import_module("lc_jax.tasks.ppo").run(config, mesh)
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert len(rows) == 8
    for row in rows:
        print({k: row[k] for k in ("policy/ratio_deviation", "rollout/sampling_gap", "rollout/sampling_gap_p99")})
        assert row["policy/ratio_deviation"] < 1e-3  # one update a step: equal shapes, equal numbers
        assert row["rollout/sampling_gap"] > 1e-3  # it is bfloat16
