"""fit(): resumed bit for bit, indifferent to micro-batches, unharmed by a bad gradient, strict about its settings."""

import contextlib
import dataclasses
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from lc_jax import parallel
from lc_jax.data.examples import Encoded
from lc_jax.models import registry
from lc_jax.training import language_model, loop
from lc_jax.training.checkpoint import Checkpoints
from lc_jax.training.logging import Destination
from lc_jax.training.optimizer import OptimizerSettings

RNG = np.random.default_rng(0)
ENCODED = [
    Encoded(tuple(RNG.integers(3, 60, length)), int(RNG.integers(1, length))) for length in RNG.integers(4, 16, 80)
]
SETTINGS = loop.FitSettings(num_epochs=1, batch_size=16, microbatch_size=16, eval_every=2, save_every=1, seed=0)
OPTIMIZER = OptimizerSettings(1e-2, 5, 0, "constant", 0.9, 0.99, 1e-8, 0.0, 1.0)


def train(output, settings=SETTINGS, loss_fn=language_model.loss_fn, description=None, encoded=ENCODED):
    mesh = parallel.make_mesh()
    with jax.set_mesh(mesh):
        model = registry.initialize(registry.from_preset("tiny-llama"), jax.random.key(0), mesh)
        data = language_model.dataset(encoded)
        wandb = ConfigDict({"project": "", "mode": "offline"})
        destination = Destination(output, description or {"fit": "a"}, wandb)
        return loop.fit(model, loss_fn, data, data, settings, OPTIMIZER, destination)


def params(model):
    return [np.asarray(x) for x in jax.tree.leaves(model.params)]


def losses(output):
    return [json.loads(line)["loss"] for line in (output / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_resumed_bit_for_bit(tmp_path):
    whole = train(tmp_path / "whole")

    class Crash(Exception):
        pass

    calls = []

    def collate_then_crash(rows):
        calls.append(rows)
        if len(calls) == 4:
            raise Crash
        return real(rows)

    data = language_model.dataset(ENCODED)
    real = data.collate
    broken = dataclasses.replace(data, collate=collate_then_crash)
    original = language_model.dataset
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(language_model, "dataset", lambda *args: broken)
        with pytest.raises(Crash):
            train(tmp_path / "cut")
    assert language_model.dataset is original
    again = train(tmp_path / "cut")
    for one, other in zip(params(whole), params(again), strict=True):
        np.testing.assert_array_equal(one, other)
    assert losses(tmp_path / "whole") == losses(tmp_path / "cut")


@pytest.mark.slow
def test_microbatches_change_nothing(tmp_path):
    whole = train(tmp_path / "one")
    parts = train(tmp_path / "many", dataclasses.replace(SETTINGS, microbatch_size=8))
    np.testing.assert_allclose(losses(tmp_path / "one"), losses(tmp_path / "many"), rtol=1e-5)
    for one, other in zip(params(whole), params(parts), strict=True):
        np.testing.assert_allclose(one, other, atol=2e-4)


@pytest.mark.slow
def test_a_bad_gradient_is_skipped_and_many_stop_the_run(tmp_path):
    def poisoned(model, batch):
        sums = language_model.loss_fn(model, batch)
        bad = jnp.any(batch["tokens"] == 61)
        return sums | {"loss": jnp.where(bad, jnp.nan, 1.0) * sums["loss"]}

    one_bad = [*ENCODED[:-1], Encoded((61, 61, 61), 1)]
    model = train(tmp_path / "one", loss_fn=poisoned, encoded=one_bad)
    assert all(np.isfinite(x).all() for x in params(model))
    rows = [json.loads(line) for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()]
    assert sum(row["skipped_in_a_row"] for row in rows) == 1
    with pytest.raises(FloatingPointError, match="5 gradients in a row were not finite at step 4"):
        train(tmp_path / "all", loss_fn=poisoned, encoded=[Encoded((61, 61, 61), 1)] * 80)


def test_other_settings_do_not_continue_a_run(tmp_path):
    train(tmp_path)
    with pytest.raises(ValueError, match=r"other settings \(fit was 'a', is 'b'\).*--config\.output"):
        train(tmp_path, description={"fit": "b"})


def test_padding_is_counted_for_each_real_token(tmp_path):
    train(tmp_path, encoded=[Encoded((5,) * length, 1) for length in (6, 8) * 40])
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    # Two batches of each length, and one of both.
    assert sorted(row["padding"] for row in rows) == pytest.approx([0, 0, 0, 0, 8 / 7 - 1])


def test_a_run_is_known_by_every_field_of_what_must_stay():
    settings = {
        "output": "runs/x",
        "wandb": None,
        "model": "m",
        "optimizer": {"kind": "adamw", "b": {"c": 2}},
        "eta": 1,
    }
    destination = Destination.of(settings, "model", "optimizer")
    assert destination.describe == {"model": '"m"', "optimizer.kind": '"adamw"', "optimizer.b.c": "2"}


@pytest.mark.parametrize("fails", [False, True])
def test_sigterm_that_no_save_saw_is_passed_on(tmp_path, monkeypatch, fails):
    seen = []
    former = signal.signal(signal.SIGTERM, lambda *_: seen.append(1))
    try:
        with contextlib.suppress(KeyError), Checkpoints(Destination(tmp_path, {}), every=2):
            signal.raise_signal(signal.SIGTERM)
            assert not seen
            if fails:
                raise KeyError
        assert seen == ([] if fails else [1])
        signal.raise_signal(signal.SIGTERM)
        assert len(seen) == (1 if fails else 2)  # the handler is back
    finally:
        signal.signal(signal.SIGTERM, former)


def test_microbatch_must_divide_the_batch(tmp_path):
    with pytest.raises(ValueError, match="microbatch_size 6 does not divide batch_size 16"):
        train(tmp_path, dataclasses.replace(SETTINGS, microbatch_size=6))


def test_targets_alone_are_learned():
    """The loss is torch's cross-entropy over target tokens, whatever stands in the prompt or past the end."""
    import torch

    model = registry.initialize(registry.from_preset("tiny-llama"), jax.random.key(0), parallel.make_mesh())
    batch = language_model.dataset(ENCODED).collate(np.arange(16))
    found = language_model.loss_fn(model, batch)
    module = model.bind()
    logits = np.asarray(module.logits(module(batch["tokens"], batch["spans"])))
    labels = np.full_like(batch["tokens"], -100)
    for row, example in enumerate(ENCODED[:16]):
        labels[row, example.num_source : len(example.tokens)] = example.tokens[example.num_source :]
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits[:, :-1]).flatten(0, 1), torch.tensor(labels[:, 1:]).flatten().long(), reduction="sum"
    )
    assert float(found["loss"]) == pytest.approx(float(expected), rel=1e-5)
    assert float(found["weight"]) == (labels[:, 1:] != -100).sum()
