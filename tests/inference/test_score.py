"""Scores of sequences that begin alike: what is computed once changes nothing."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lc_jax import parallel
from lc_jax.data import batches
from lc_jax.inference import score
from lc_jax.models import registry, transformer
from tests import programs
from tests.models.conftest import random_model

RNG = np.random.default_rng(0)


def tokens(count):
    return RNG.integers(3, 64, count).tolist()


COMMON = [tokens(n) for n in (20, 1, 9, 33)]
GROUPS = [
    [COMMON[0] + tail for tail in ([7], [7, 8, 9], tokens(12), [9])],
    [COMMON[1] + [5]],  # one sequence
    [COMMON[2], COMMON[2] + [4, 4], COMMON[2]],  # one is the beginning of the other, and comes twice
    [[3], [4, 5, 6]],  # nothing shared
    [COMMON[0] + tokens(30), COMMON[0] + tokens(30)],  # less shared than not
    [COMMON[3] + tail for tail in (tokens(3), tokens(5))],
]


def model_of(preset, mesh, kernels):
    model = random_model(mesh, preset, "scalar")
    config = dataclasses.replace(model.config, kernels=kernels)
    return registry.abstract_model(config, "scalar", mesh).with_params(model.params)


@pytest.mark.parametrize(
    ("preset", "shape", "kernels"),
    [
        ("tiny-llama", (4, 2, 1), "auto"),
        ("tiny-gpt-neox", (2, 2, 2), "auto"),
        ("tiny-llama", (2, 2, 2), "splash"),
        pytest.param("tiny-gpt-neox", (4, 2, 1), "auto", marks=pytest.mark.slow),
        pytest.param("tiny-llama", (2, 2, 2), "auto", marks=pytest.mark.slow),
        pytest.param("tiny-gpt-neox", (2, 2, 2), "splash", marks=pytest.mark.slow),
    ],
)
def test_each_sequence_has_the_reward_it_has_alone(preset, shape, kernels):
    mesh = parallel.make_mesh(*shape)
    with jax.set_mesh(mesh):
        together = score.group_rewards(model_of(preset, mesh, kernels), GROUPS, batch_size=4 if shape[0] < 4 else 8)
        flat = [s for group in GROUPS for s in group]
        alone = dict(score.stream_rewards(model_of(preset, mesh, "portable"), flat, batch_size=8))
    expected = np.asarray([alone[i] for i in range(len(alone))])
    assert np.ptp(expected) > 0.1
    assert [len(scores) for scores in together] == [len(group) for group in GROUPS]
    np.testing.assert_allclose(np.concatenate(together), expected, rtol=1e-4, atol=1e-4)  # large weights magnify


PREFIX = tokens(40)
CONTINUATIONS = [tokens(n) for n in (1, 5, 17, 30, 2)]


@pytest.mark.parametrize(
    ("preset", "shape", "per_layer", "dtype"),
    [
        ("tiny-llama", (1, 1, 1), True, "float32"),
        ("tiny-llama", (2, 2, 2), False, "float32"),
        ("tiny-llama", (2, 2, 2), True, "bfloat16"),
        ("tiny-gpt-neox", (1, 1, 1), False, "float32"),
    ],
)
def test_log_probabilities_behind_a_shared_prefix_are_those_of_each_text_alone(
    preset, shape, per_layer, dtype, monkeypatch
):
    monkeypatch.setattr(transformer, "is_per_layer", lambda config: per_layer)
    jax.clear_caches()
    texts, shapes, compute = [PREFIX + rest for rest in CONTINUATIONS], [], score._continuation_logprobs
    monkeypatch.setattr(
        score, "_continuation_logprobs", lambda m, t, *rest, **k: shapes.append(t.shape) or compute(m, t, *rest, **k)
    )
    mesh = programs.mesh_of() if shape == (1, 1, 1) else parallel.make_mesh(*shape)
    with jax.set_mesh(mesh):
        model = random_model(mesh, preset, param_dtype=dtype, compute_dtype=dtype)
        together = dict(score.stream_logprobs(model, texts, batch_size=4, temperature=0.7))
        alone = [dict(score.stream_logprobs(model, [text], batch_size=4, temperature=0.7))[0] for text in texts]
    assert shapes == [(4, 20), (4, 32)]  # up to 17 tokens, then 30
    assert sorted(together) == list(range(len(texts)))
    for i, expected in enumerate(alone):
        assert len(together[i].logprobs) == len(together[i].entropies) == len(texts[i]) - 1
        rtol, atol = (1e-3, 1e-4) if dtype == "float32" else (0.1, 1.0)  # large weights magnify
        np.testing.assert_allclose(together[i].logprobs, expected.logprobs, rtol=rtol, atol=atol)
        np.testing.assert_allclose(together[i].entropies, expected.entropies, rtol=rtol, atol=atol)
    assert np.ptp([scores.logprobs[39] for scores in alone]) > 0.1  # each has its own token after the prefix


@pytest.mark.parametrize("kind", ["causal", "scalar"])
def test_layers_in_bfloat16_are_read_as_bits_on_a_cpu(kind):
    """The scores are the same; layers as bfloat16 numbers are converted to float32 as a whole."""
    mesh = programs.mesh_of()
    with jax.set_mesh(mesh):
        config = registry.from_preset("tiny-llama", param_dtype="bfloat16", compute_dtype="bfloat16")
        model = registry.initialize(dataclasses.replace(config, num_layers=12), jax.random.key(0), mesh, kind)
        model = model.with_params(jax.tree.map(lambda x: x + 0.1, model.params))  # the scalar head is zero at first
        padded = batches.pad([PREFIX, PREFIX[:9]], 40)
        compute, args = {
            "causal": (score.sequence_logprobs, (padded.tokens, padded.lengths, jnp.float32(1.0))),
            "scalar": (score.sequence_rewards, (padded.tokens, padded.lengths)),
        }[kind]
        texts = [compute.lower(m, *args).compile().as_text() for m in (model, model.as_bits())]
        outputs = [jax.tree.leaves(compute(m, *args)) for m in (model, model.as_bits())]
    assert [bool(re.search(r"f32\[12,\d+,\d+\]", text)) for text in texts] == [True, False]
    assert np.ptp(np.asarray(outputs[0][0], np.float32)) > 0
    for expected, value in zip(*outputs, strict=True):
        np.testing.assert_array_equal(np.asarray(value), np.asarray(expected))


def test_a_fused_kernel_takes_no_prefix(monkeypatch):
    mesh = programs.mesh_of()
    monkeypatch.setattr(score, "compute_prefix", lambda *_: pytest.fail("the prefix is computed"))
    with jax.set_mesh(mesh):
        model = random_model(mesh, "tiny-llama")
        config = dataclasses.replace(model.config, kernels="splash")
        model = registry.abstract_model(config, "causal", mesh).with_params(model.params)
        scores = dict(score.stream_logprobs(model, [PREFIX + [5], PREFIX + [6, 7]], batch_size=2))
    assert [len(scores[i].logprobs) for i in range(2)] == [40, 41]


def test_texts_of_a_token_or_none_have_no_scores():
    mesh = programs.mesh_of()
    with jax.set_mesh(mesh):
        scores = dict(score.stream_logprobs(random_model(mesh), [[], [5], [5, 6]], batch_size=2))
    assert [len(scores[i].logprobs) for i in range(3)] == [0, 0, 1]


def test_no_groups():
    assert score.group_rewards(None, [], batch_size=4) == []


def test_a_shared_prefix_leaves_each_sequence_a_token():
    counts = [batches.shared_prefix_length(group) for group in GROUPS]
    assert counts == [20, 1, 8, 0, 20, 33]
