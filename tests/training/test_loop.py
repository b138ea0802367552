"""fit(): resumed bit for bit, indifferent to micro-batches, unharmed by a bad gradient, strict about its settings."""

import contextlib
import dataclasses
import functools
import json
import signal

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict
from tqdm import tqdm

from lc_jax import parallel
from lc_jax.data.examples import Encoded
from lc_jax.data.jsonl import read_jsonl
from lc_jax.models import hf, registry
from lc_jax.training import language_model, logging, loop
from lc_jax.training import state as states
from lc_jax.training.checkpoint import Checkpoints
from lc_jax.training.exports import Exports
from lc_jax.training.logging import RunDirectory
from lc_jax.training.optimizer import OptimizerSettings, make_optimizer
from tests import programs

RNG = np.random.default_rng(0)
ENCODED = [
    Encoded(tuple(RNG.integers(3, 60, length)), int(RNG.integers(1, length))) for length in RNG.integers(4, 16, 80)
]
SETTINGS = loop.FitSettings(num_epochs=1, batch_size=16, microbatch_size=16, eval_every=2, save_every=1, seed=0)
OPTIMIZER = OptimizerSettings(1e-2, 5, 0, "constant", 0.9, 0.99, 1e-8, 0.0, 1.0)


def train(output, settings=SETTINGS, loss_fn=language_model.loss_fn, description=None, encoded=ENCODED, **options):
    # One device compiles in a fraction of the time of eight, which test_meshes.py compares with one.
    mesh = programs.mesh_of()
    with jax.set_mesh(mesh):
        model = registry.initialize(registry.from_preset("tiny-llama"), jax.random.key(0), mesh)
        data = language_model.dataset(encoded)
        wandb = ConfigDict({"project": "", "mode": "offline"})
        run_directory = RunDirectory(output, description or {"fit": "a"}, wandb, exports=options.get("exports"))
        held_out, optimizer = options.get("held_out", data), options.get("optimizer", OPTIMIZER)
        return loop.fit(model, loss_fn, data, held_out, settings, optimizer, run_directory)


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
    model = train(tmp_path / "one", loss_fn=poisoned, encoded=one_bad, held_out=None)
    assert all(np.isfinite(x).all() for x in params(model))
    rows = [json.loads(line) for line in (tmp_path / "one" / "metrics.jsonl").read_text().splitlines()]
    assert sum(row["skipped_in_a_row"] for row in rows) == 1
    with pytest.raises(FloatingPointError, match="5 gradients in a row were not finite at step 4"):
        train(tmp_path / "all", loss_fn=poisoned, encoded=[Encoded((61, 61, 61), 1)] * 80, held_out=None)
    with pytest.raises(FloatingPointError, match=r"loss of held-out rows \[79"):
        train(tmp_path / "held_out", loss_fn=poisoned, encoded=one_bad)


def test_the_model_is_written_after_every_so_many_steps_and_once(tmp_path):
    names = []

    def save(folder, model):
        names.append(folder.name)
        hf.save(folder, model)

    whole = train(tmp_path / "whole", exports=Exports(tmp_path / "whole", 5, save))
    assert names == ["000005"]
    with jax.set_mesh(parallel.make_mesh()):
        model = hf.load(tmp_path / "whole" / "steps" / "000005", parallel.make_mesh())
    for a, b in zip(params(model), params(whole), strict=True):
        np.testing.assert_array_equal(a, b)
    exports = Exports(tmp_path / "rest", 2, save)
    for step in range(1, 6):
        exports.after(step, lambda: model)
    exports.after(4, lambda: model)  # a resumed run comes by again
    assert names == ["000005", "000002", "000004"]
    Exports(tmp_path, 0, save).after(2, lambda: model)
    assert len(names) == 3


def test_other_settings_do_not_continue_a_run(tmp_path):
    with Checkpoints(RunDirectory(tmp_path, {"fit": "a"}), every=1) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(2)})
    with pytest.raises(ValueError, match=r"other settings \(fit was 'a', is 'b'\).*--config\.output"):
        Checkpoints(RunDirectory(tmp_path, {"fit": "b"}), every=1)


def test_a_run_of_a_version_before_a_setting_resumes_while_the_setting_is_empty(tmp_path):
    with Checkpoints(RunDirectory(tmp_path, {"a": "1"}), every=1) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(2)})
    with Checkpoints(RunDirectory(tmp_path, {"a": "1", "questions.columns": '""'}), every=1) as checkpoints:
        assert checkpoints.restore({"x": jnp.zeros(2)})[1] == 1
    with pytest.raises(ValueError, match=r"questions\.columns was no setting, is '\"x=y\"'"):
        Checkpoints(RunDirectory(tmp_path, {"a": "1", "questions.columns": '"x=y"'}), every=1)


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
    run_directory = RunDirectory.of(settings, "model", "optimizer")
    assert run_directory.fixed_settings == {"model": '"m"', "optimizer.kind": '"adamw"', "optimizer.b.c": "2"}


def test_a_finished_run_that_is_started_again_says_so_and_trains_nothing(tmp_path, caplog):
    model, number = train(tmp_path), len(read_jsonl(tmp_path / "metrics.jsonl"))
    caplog.clear()
    caplog.set_level("INFO", logger="absl")

    def no_step(*_):
        raise AssertionError

    again = train(tmp_path, loss_fn=no_step)
    jax.tree.map(np.testing.assert_array_equal, params(again), params(model))
    assert len(read_jsonl(tmp_path / "metrics.jsonl")) == number
    messages = [record.getMessage() for record in caplog.records if record.name == "absl"]
    assert any(f"({number} of {number} steps): only {tmp_path}/model is written again." in text for text in messages)
    assert not any("Resuming" in text or "micro-batches" in text for text in messages)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("fails", [False, True])
def test_a_signal_that_no_save_saw_is_passed_on(tmp_path, fails, number):
    signals = []
    former = signal.signal(number, lambda *_: signals.append(1))
    try:
        with contextlib.suppress(KeyError), Checkpoints(RunDirectory(tmp_path, {}), every=2):
            signal.raise_signal(number)
            assert not signals
            if fails:
                raise KeyError
        assert signals == ([] if fails else [1])
        signal.raise_signal(number)
        assert len(signals) == (1 if fails else 2)  # the handler is back
    finally:
        signal.signal(number, former)


def two_steps(output, *signals):
    """Two steps with a checkpoint every tenth; the signals come between them."""
    with Checkpoints(RunDirectory(output, {}), every=10) as checkpoints:
        checkpoints.save(1, {"x": jnp.ones(2)})
        for number in signals:
            signal.raise_signal(number)
        checkpoints.save(2, {"x": jnp.ones(2)})


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_between_the_usual_steps_and_ends_with_code_75(tmp_path, number):
    with pytest.raises(SystemExit) as stopped:
        two_steps(tmp_path, number)
    assert stopped.value.code == 75
    assert [path.name for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()] == ["2"]


def test_a_second_ctrl_c_stops_at_once(tmp_path):
    before = signal.getsignal(signal.SIGINT)  # ignored where the shell put the tests into the background
    with pytest.raises(KeyboardInterrupt):
        two_steps(tmp_path, signal.SIGINT, signal.SIGINT)
    assert not [path for path in (tmp_path / "checkpoints").iterdir() if path.name.isdigit()]
    assert signal.getsignal(signal.SIGINT) is before


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"microbatch_size": 6}, r"fit\.microbatch_size=6 does not divide --config\.fit\.batch_size=16: give 4 or 8\."),
        ({"batch_size": 0}, r"--config\.fit\.batch_size=0: give a whole number of at least 1\."),
        ({"num_epochs": 0}, r"--config\.fit\.num_epochs=0: give a number above 0\."),
        ({"eval_every": -1}, r"--config\.fit\.eval_every=-1: give a whole number of at least 0\."),
        ({"save_every": 2.5}, r"--config\.fit\.save_every=2\.5"),
    ],
)
def test_sizes_that_cannot_be_are_refused_with_their_flag(changes, message):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(SETTINGS, **changes)


def test_a_microbatch_larger_than_the_batch_is_the_batch():
    assert dataclasses.replace(SETTINGS, batch_size=8, microbatch_size=32).microbatch_size == 8
    assert dataclasses.replace(SETTINGS, microbatch_size=0).microbatch_size == 0  # chosen by the memory plan


def test_too_few_examples_for_a_batch_are_refused():
    assert [SETTINGS.num_steps(n) for n in (16, 31, 80)] == [1, 1, 5]
    with pytest.raises(ValueError, match=r"15 training examples.*--config\.fit\.batch_size to 15 or less"):
        SETTINGS.num_steps(15)


def test_evaluation_every_zero_steps_is_only_after_the_last():
    every_two, last = SETTINGS, dataclasses.replace(SETTINGS, eval_every=0)
    assert [step for step in range(1, 6) if every_two.is_due(step, 5)] == [2, 4, 5]
    assert [step for step in range(1, 6) if last.is_due(step, 5)] == [5]


def test_a_loss_that_is_not_finite_changes_nothing_though_its_gradient_is():
    mesh = parallel.make_mesh()
    with jax.set_mesh(mesh):
        params = {"a": jnp.arange(3.0)}
        tx = make_optimizer(OPTIMIZER, {"a": True})
        state = states.create(jax.device_put(params, jax.NamedSharding(mesh, jax.P())), tx)
        grads = {"a": jnp.ones(3)}
        bad, _ = states.apply_gradients(state, grads, tx, loss=jnp.float32(np.nan))
        good, _ = states.apply_gradients(state, grads, tx, loss=jnp.float32(1.0))
    np.testing.assert_array_equal(bad.params["a"], params["a"])
    assert (int(bad.skipped), int(good.skipped)) == (1, 0)
    assert not np.array_equal(good.params["a"], params["a"])


@pytest.mark.slow
def test_a_run_whose_every_loss_is_not_finite_leaves_no_model(tmp_path):
    def constant_nan(model, batch):
        sums = language_model.loss_fn(model, batch)
        return sums | {"loss": sums["loss"] + jnp.nan}  # its gradient is finite

    with pytest.raises(FloatingPointError, match="3 gradients in a row were not finite at step 2"):
        train(tmp_path, loss_fn=constant_nan, encoded=ENCODED[:48], held_out=None)


def test_the_metrics_hold_the_learning_rate_and_are_strict_json(tmp_path):
    def poisoned(model, batch):
        sums = language_model.loss_fn(model, batch)
        return sums | {"loss": jnp.where(jnp.any(batch["tokens"] == 61), jnp.nan, 1.0) * sums["loss"]}

    falling = dataclasses.replace(OPTIMIZER, schedule="linear")
    train(
        tmp_path, loss_fn=poisoned, encoded=[*ENCODED[:-1], Encoded((61, 61, 61), 1)], optimizer=falling, held_out=None
    )
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
    assert sum(row["loss"] is None for row in rows) == 1
    # Updates go from 1e-2 down in fifths; the skipped step makes none, and repeats the rate of the one before.
    skipped = next(place for place, row in enumerate(rows) if row["loss"] is None)
    rates = [1e-2, 8e-3, 6e-3, 4e-3]
    rates.insert(skipped, rates[max(skipped - 1, 0)])
    assert [row["learning_rate"] for row in rows] == pytest.approx(rates)


@pytest.mark.parametrize("kind", ["adamw", "adamw_int8"])
def test_the_learning_rate_is_that_of_the_last_update_and_not_of_the_last_step(kind):
    falling = dataclasses.replace(OPTIMIZER, schedule="linear", clip_norm=float("inf"), eps=0.0, kind=kind)
    mesh, moves, rates = parallel.make_mesh(), [], []
    with jax.set_mesh(mesh):
        tx = make_optimizer(falling, {"a": True})
        state = states.create(jax.device_put({"a": jnp.zeros(64)}, jax.NamedSharding(mesh, jax.P())), tx)
        for loss in (1.0, np.nan, 1.0, np.nan, 1.0):
            before = np.asarray(state.params["a"])
            state, _ = states.apply_gradients(state, {"a": jnp.ones(64)}, tx, loss=jnp.float32(loss))
            moves.append(float((before - np.asarray(state.params["a"])).mean()))
            rates.append(float(falling.learning_rate_at(states.last_update(state))))
    # Adam moves by the learning rate where the gradient stays the same.
    assert moves == pytest.approx([1e-2, 0, 8e-3, 0, 6e-3], rel=1e-3)
    assert rates == pytest.approx([1e-2, 1e-2, 8e-3, 8e-3, 6e-3])


def test_targets_alone_are_learned():
    """The loss is torch's cross-entropy over target tokens, whatever is in the prompt or past the end."""
    import torch

    model = registry.initialize(registry.from_preset("tiny-llama"), jax.random.key(0), parallel.make_mesh())
    batch = language_model.dataset(ENCODED).collate(np.arange(16))
    sums = language_model.loss_fn(model, batch)
    module = model.bind()
    logits = np.asarray(module.logits(module(batch["tokens"], batch["lengths"])))
    labels = np.full_like(batch["tokens"], -100)
    for row, example in enumerate(ENCODED[:16]):
        labels[row, example.num_source : len(example.tokens)] = example.tokens[example.num_source :]
    expected = torch.nn.functional.cross_entropy(
        torch.tensor(logits[:, :-1]).flatten(0, 1), torch.tensor(labels[:, 1:]).flatten().long(), reduction="sum"
    )
    assert float(sums["loss"]) == pytest.approx(float(expected), rel=1e-5)
    assert float(sums["weight"]) == (labels[:, 1:] != -100).sum()


def test_a_run_without_a_progress_bar(tmp_path, monkeypatch):
    monkeypatch.setattr(logging, "tqdm", functools.partial(tqdm, disable=True))
    run = logging.Run(RunDirectory(tmp_path, {}), num_steps=2)
    for step in range(2):
        run.log(step, {"loss": 1.0})
        run.advance()
    run.close()
    assert [row["step"] for row in read_jsonl(tmp_path / "metrics.jsonl")] == [0, 1]
