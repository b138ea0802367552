"""Sampling: what a completion depends on, where it ends, what is never drawn, and how often it compiles."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lc_jax import parallel
from lc_jax.data import batches
from lc_jax.inference import generate, prefix, score
from lc_jax.models import transformer
from lc_jax.models.transformer import CausalLM
from tests import programs
from tests.models.conftest import random_model

EOS, PAD = 5, 7
PROMPTS = [[3, 9, 4], [11] * 12, [2, 8, 6, 1, 30, 31, 12], [40], [17, 21, 3, 3, 9]]
SAMPLING = generate.Sampling(12, 1.0, eos_ids=(EOS,), pad_id=PAD)


def logits_scaled(model, factor):
    """The model with its last matrix scaled: random logits flat enough to sample from, or peaked."""
    return model.with_params(jax.tree.map(lambda x: (x * factor).astype(x.dtype), model.params))


@pytest.fixture(scope="module")
def model():
    return logits_scaled(random_model(parallel.make_mesh()), 0.05)


@jax.jit
def logits_of(model, tokens, lengths=None):
    module = model.bind()
    return module.logits(module(tokens, lengths))


def run(model, prompts=PROMPTS, sampling=SAMPLING, **options):
    return generate.generate(model, prompts, sampling, **({"seed": 3, "batch_size": 8} | options))


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_does_not_depend_on_its_batch(model, temperature):
    sampling = dataclasses.replace(SAMPLING, temperature=temperature)
    together = run(model, sampling=sampling)
    apart = [run(model, [p], sampling, row_ids=[i])[0] for i, p in enumerate(PROMPTS)]
    backwards = run(model, PROMPTS[::-1], sampling, row_ids=range(len(PROMPTS))[::-1])[::-1]
    for one, other, third in zip(together, apart, backwards, strict=True):
        assert one.tokens == other.tokens == third.tokens
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)


def test_seeds_and_samples_differ(model):
    samples = run(model, [PROMPTS[0]] * 4)
    assert len({tuple(c.tokens) for c in samples}) == 4
    assert [c.tokens for c in samples] == [c.tokens for c in run(model, [PROMPTS[0]] * 4)]
    assert [c.tokens for c in samples] != [c.tokens for c in run(model, [PROMPTS[0]] * 4, seed=4)]


@pytest.mark.parametrize(
    ("repeats", "batch_size", "rows"),
    [([2, 2, 2, 2], 8, 4), ([4, 2, 2], 4, 2), ([3, 3, 3], 6, 2), ([2, 3], 8, 8), ([4, 4, 4], 8, 2)],
)
def test_a_prompt_is_computed_once_for_its_samples(model, monkeypatch, repeats, batch_size, rows):
    """The samples are those of prompts that are computed one by one; the last batch may have dummy rows."""
    prompts = [p for p, count in zip(PROMPTS, repeats, strict=False) for _ in range(count)]
    apart = [run(model, [p], row_ids=[i])[0] for i, p in enumerate(prompts)]
    widths, original = [], generate._generate
    monkeypatch.setattr(
        generate, "_generate", lambda m, tokens, *rest: widths.append(len(tokens)) or original(m, tokens, *rest)
    )
    together = run(model, prompts, batch_size=batch_size)
    assert set(widths) == {rows}
    for one, other in zip(together, apart, strict=True):
        assert one.tokens == other.tokens
        np.testing.assert_allclose(one.logprobs, other.logprobs, atol=1e-4)


@pytest.mark.parametrize(("data", "rows"), [(1, 2), (2, 2), (8, 8)])
def test_each_device_has_whole_prompts(data, rows, monkeypatch):
    prompts = [PROMPTS[0]] * 4 + [PROMPTS[1]] * 4
    mesh = programs.mesh_of(data)
    with jax.set_mesh(mesh):
        assert 8 // generate._num_samples(prompts, 8) == rows


@pytest.mark.parametrize(
    ("devices", "count", "batch_size", "rows"),
    [
        *[(1, 5, 128, 16), (1, 64, 128, 64), (1, 65, 128, 96), (1, 97, 128, 128), (1, 500, 128, 128)],
        *[(1, 5, 8, 8), (1, 5, 5, 5), (8, 5, 128, 16), (8, 5, 8, 8)],
        *[(6, 20, 128, 24), (6, 40, 120, 48), (6, 60, 120, 120), (5, 20, 128, 24), (5, 20, 20, 20)],
    ],
)
def test_a_batch_has_as_few_rows_as_its_prompts_need(devices, count, batch_size, rows):
    """One of few sizes, and as few on each device; (6, 60, 120): 64 rows would be whole on each of six devices."""
    mesh = programs.mesh_of(devices)
    with jax.set_mesh(mesh):
        assert generate._rows_at_once(count, batch_size) == rows


def test_few_prompts_in_a_large_batch_are_completed_alike(model, monkeypatch):
    expected, widths, original = run(model), [], generate._generate
    monkeypatch.setattr(
        generate, "_generate", lambda m, tokens, *rest: widths.append(len(tokens)) or original(m, tokens, *rest)
    )
    assert [c.tokens for c in run(model, batch_size=64)] == [c.tokens for c in expected]
    assert widths == [16]


def test_logprobs_are_those_of_the_full_forward_pass(model):
    hot = dataclasses.replace(SAMPLING, temperature=0.7, top_k=20, top_p=0.9)
    completions = run(model, sampling=hot)
    padded = batches.pad([prompt + c.tokens for prompt, c in zip(PROMPTS, completions, strict=True)] + [[3]] * 3, 24)
    logprobs = np.asarray(jax.nn.log_softmax(logits_of(model, padded.tokens, padded.lengths) / 0.7))
    for row, prompt, completion in zip(logprobs, PROMPTS, completions, strict=False):
        first = len(prompt) - 1  # the position before the first token drawn
        expected = row[np.arange(first, first + len(completion.tokens)), completion.tokens]
        np.testing.assert_allclose(completion.logprobs, expected, atol=1e-4)


@pytest.mark.parametrize(
    ("preset", "per_layer"), [pytest.param("tiny-llama", True, marks=pytest.mark.slow), ("tiny-gpt-neox", False)]
)
def test_a_shared_prefix_is_computed_once(preset, per_layer, monkeypatch):
    """Each token sampled after it has the probability of the full forward pass, on one device and on eight."""
    beginning = np.random.default_rng(0).integers(8, 96, 70).tolist()
    prompts = [beginning + prompt for prompt in [*PROMPTS, [3]]]
    monkeypatch.setattr(transformer, "is_per_layer", lambda config: per_layer)
    jax.clear_caches()
    widths, prefill = [], CausalLM.prefill
    monkeypatch.setattr(
        CausalLM, "prefill", lambda self, tokens, *rest: widths.append(tokens.shape) or prefill(self, tokens, *rest)
    )
    outputs = []
    one = programs.mesh_of()
    for mesh in (one, parallel.make_mesh(2, 2, 2)):
        with jax.set_mesh(mesh):
            model = logits_scaled(random_model(mesh, preset), 0.3)
            outputs.append(run(model, prompts))
            texts = [p + c.tokens for p, c in zip(prompts, outputs[-1], strict=True)]
            padded = batches.pad(texts + [[0]] * (8 - len(texts)), max(map(len, texts)))
            logprobs, _ = score.sequence_logprobs(model, padded.tokens, padded.lengths, jnp.float32(1.0))
        for text, row, completion in zip(texts, np.asarray(logprobs), outputs[-1], strict=False):
            expected = row[len(text) - len(completion.tokens) - 1 : len(text) - 1]
            np.testing.assert_allclose(completion.logprobs, expected, atol=1e-4)
    assert [c.tokens for c in outputs[0]] == [c.tokens for c in outputs[1]]
    assert widths == [(1, 64), (8, 24)] * 2  # the multiple of 8 below 70, and the 6 + 12 tokens that are left


@pytest.mark.parametrize(
    ("same", "lengths", "expected"),
    [
        (100, (101, 180), 96),
        (100, (101, 193), 0),  # more is left of one than all have in common
        (35, (36, 40), 32),
        (31, (32, 32), 0),  # too little
        (100, (101,), 0),  # one prompt has nothing in common with others
        (0, (), 0),
    ],
)
def test_only_a_long_shared_prefix_is_computed_once_and_in_few_lengths(same, lengths, expected):
    prompts = [[7] * same + [i + 8] + [9] * (length - same - 1) for i, length in enumerate(lengths)]
    assert prefix.prefix_length(prompts) == expected


def test_a_finished_batch_is_not_lost_where_the_next_one_fails():
    def batches_():
        yield from (1, 2)
        raise MemoryError

    values = []
    with pytest.raises(MemoryError):
        values.extend(parallel.prefetch(batches_()))
    assert values == [1, 2]
    assert list(parallel.prefetch([])) == []


def test_greedy_tokens_are_the_first_of_the_likeliest():
    logits = jnp.asarray([[1.0, 3.0, 3.0, -jnp.inf], [-jnp.inf, -5.0, -7.0, -9.0], [0.0, 0.0, 0.0, 2.0]])
    assert generate._largest(logits).tolist() == [1, 1, 3]
    assert generate._largest(jnp.full((1, 4), jnp.nan)).tolist() == [3]  # a token of the vocabulary


def test_ends_at_end_of_sequence_and_never_draws_padding(model):
    many = run(model, [[i] for i in range(20, 84)], dataclasses.replace(SAMPLING, max_new_tokens=40), batch_size=64)
    assert {c.finished for c in many} == {True, False}
    for completion in many:
        assert PAD not in completion.tokens
        assert EOS not in completion.tokens[:-1]
        assert completion.finished == (completion.tokens[-1] == EOS)
        assert completion.finished or len(completion.tokens) == 40
        assert len(completion.logprobs) == len(completion.tokens)


def test_stops_early_when_all_rows_are_done(model):
    everything = tuple(range(model.config.vocab_size))
    completions = run(model, sampling=generate.Sampling(1000, 1.0, eos_ids=everything))
    assert [len(c.tokens) for c in completions] == [1] * len(PROMPTS)


def test_top_k_and_top_p_keep_the_likeliest():
    logits = jnp.log(jnp.asarray([[0.5, 0.3, 0.15, 0.05]]))
    mask = np.isfinite(generate._truncate(logits, jnp.float32(1.0), 2, False))
    np.testing.assert_array_equal(mask, [[True, True, False, False]])
    for top_p, count in ((0.01, 1), (0.5, 1), (0.6, 2), (0.81, 3), (0.99, 4)):
        assert np.isfinite(generate._truncate(logits, jnp.float32(top_p), 0, True)).sum() == count
    # After top-k the nucleus is taken of what is left: 0.5 / 0.8 = 0.625.
    assert np.isfinite(generate._truncate(logits, jnp.float32(0.6), 2, True)).sum() == 1


def test_draws_follow_the_distribution(model):
    sampling = generate.Sampling(1, 1.0)
    counts = np.bincount([c.tokens[0] for c in run(model, [PROMPTS[1]] * 4096, sampling, batch_size=1024)])
    probs = np.asarray(jax.nn.softmax(logits_of(model, np.asarray([PROMPTS[1]] * 8))[0, -1]))
    counts = np.pad(counts, (0, len(probs) - len(counts)))
    expected = probs * 4096
    common = expected > 5
    chi_squared = ((counts - expected) ** 2 / expected)[common].sum()
    assert chi_squared < common.sum() + 5 * np.sqrt(2 * common.sum())


def test_blocks_of_the_vocabulary_are_drawn_from_as_the_whole():
    """A vocabulary that no block divides, tokens that must not come, and a block of nothing else."""
    logits = (
        jnp.asarray(np.random.default_rng(0).normal(size=37), jnp.float32).at[8:16].set(-jnp.inf).at[36].set(-jnp.inf)
    )
    keys = jax.random.split(jax.random.key(0), 20_000)
    counts = np.bincount(generate._categorical(keys, jnp.tile(logits, (len(keys), 1))), minlength=37)
    assert len(counts) == 37
    expected = np.asarray(jax.nn.softmax(logits)) * len(keys)
    assert counts[expected == 0].sum() == 0
    common = expected > 5
    chi_squared = ((counts - expected) ** 2 / np.maximum(expected, 1e-9))[common].sum()
    assert chi_squared < common.sum() + 5 * np.sqrt(2 * common.sum())


@pytest.mark.slow
def test_a_new_temperature_compiles_nothing(model):
    run(model)
    before = generate._generate._cache_size()
    run(model, sampling=dataclasses.replace(SAMPLING, temperature=0.3), seed=9)
    run(model, PROMPTS[2:])
    assert generate._generate._cache_size() == before


@pytest.mark.parametrize("options", [{"max_new_tokens": 0}, {"temperature": -1.0}, {"top_p": 0.0}, {"top_k": -1}])
def test_bad_settings_are_refused(options):
    with pytest.raises(ValueError, match="Sampling needs"):
        generate.Sampling(**({"max_new_tokens": 4} | options))


def test_an_empty_prompt_is_named(model):
    with pytest.raises(ValueError, match=r"Prompt 1 has no tokens"):
        run(model, [[3], []])
