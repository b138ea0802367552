"""Tokens that the supervised losses cover, and values of the losses computed by hand."""

import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lc_jax import parallel
from lc_jax.data import examples
from lc_jax.data.examples import Encoded
from lc_jax.data.tokenizer import load_tokenizer
from lc_jax.inference import score
from lc_jax.rl import reward_model
from lc_jax.training import language_model, losses
from lc_jax.types import Example
from tests.models.conftest import PRESETS, random_model
from tests.recorded import GOLDEN


def test_losses_are_sums_over_the_mask_and_their_number():
    mask = np.asarray([[True, False, True], [False, True, False]])
    logprobs = np.asarray([[-1, -10, -2], [-10, -4, -10]], np.float32)
    assert [float(x) for x in losses.next_token_loss(logprobs, mask)] == [7.0, 3.0]  # 1 + 2 + 4
    logits = np.asarray([0, np.log(3), -np.log(3), 50], np.float32)
    labels, real = np.asarray([0.5, 1, 0.25, 0], np.float32), np.asarray([True, True, True, False])
    loss, count = losses.soft_label_loss(logits, labels, real)
    # p = 1/2, 3/4, 1/4: -log(1/2), -log(3/4), -(log(1/4) + 3 log(3/4)) / 4
    expected = np.log(2) - np.log(0.75) - (np.log(0.25) + 3 * np.log(0.75)) / 4
    assert float(loss) == pytest.approx(expected, rel=1e-6)
    assert float(count) == 3
    far, _ = losses.soft_label_loss(np.float32([200.0]), np.float32([0.0]), np.asarray([True]))
    assert float(far) == 200.0  # -log sigmoid(-200), without overflow


class Echo:
    """A model whose log-probability of a token is minus its id, or NaN unless it is read one token before."""

    def bind(self):
        return self

    def __call__(self, tokens, lengths):
        return tokens

    def logprobs(self, hidden, targets, temperature):
        assert hidden.shape == targets.shape
        return jnp.where(targets == hidden + 1, -targets.astype(jnp.float32), jnp.nan), None


def test_the_loss_covers_the_target_and_its_end():
    encoded = [Encoded((10, 11, 12, 13, 14), 3), Encoded((20, 21), 1), Encoded((30, 31, 32, 33), 1)]
    batch = language_model.dataset(encoded).collate(np.asarray([0, 1, 2, -1]))
    assert batch["tokens"][0].tolist() == [10, 11, 12, 13, 14]
    assert batch["first_targets"].tolist()[:3] == [3, 1, 1]
    rows = [{key: value[i : i + 1] for key, value in batch.items()} for i in range(4)]
    sums = [language_model.loss_fn(Echo(), row | {"tokens": fill(row)}) for row in rows]
    # Targets 13, 14 | 21 | 31, 32, 33 | none in the dummy row.
    assert [float(x["loss"]) for x in sums] == [27, 21, 96, 0]
    assert [float(x["weight"]) for x in sums] == [2, 1, 3, 0]


def fill(row):
    """Returns tokens whose padding continues to count, so that reading it changes the loss."""
    end = row["lengths"][0]
    positions = np.arange(row["tokens"].shape[1])
    return np.where(positions < end, row["tokens"], row["tokens"][0, end - 1] + positions - end + 1)


def test_the_prompt_is_no_target_and_the_end_is():
    tokenizer = load_tokenizer(GOLDEN / "tokenizer_tiny")
    example = Example("q", "It is likely that", " Ada moved to Oslo.")
    tokens, prompt = map(tokenizer.encode_prompt, (example.prompt + example.target, example.prompt))
    assert tokens[: len(prompt)] == prompt
    encoded = examples.encode_sft(tokenizer, example, 64)
    assert encoded == Encoded((*tokens, tokenizer.eos_id), len(prompt))
    cut = examples.encode_sft(tokenizer, example, len(prompt) + 1)
    assert cut == Encoded((*prompt, tokens[len(prompt)]), len(prompt))
    assert examples.encode_sft(tokenizer, example, len(prompt)) is None
    assert examples.encode_all(tokenizer, [example] * 2, len(prompt)) == []


@pytest.mark.parametrize("preset", PRESETS)
def test_a_reward_is_read_at_the_last_real_token(preset):
    mesh = parallel.make_mesh()
    sequences, labels = [[3, 9, 4, 20, 11], [7, 8], [5, 6, 30]], [1.0, 0.0, 0.25]
    with jax.set_mesh(mesh):
        model = random_model(mesh, preset, "scalar")
        module = model.bind()
        logits = np.asarray([np.asarray(module(jnp.asarray([s])))[0, -1] for s in sequences], np.float64)
        rows = np.asarray([0, 1, 2, -1, -1, -1, -1, -1])
        batch = reward_model.dataset(sequences, labels).collate(rows)
        sums = reward_model.loss_fn(model, batch)
        alone = dict(score.stream_rewards(model, sequences, batch_size=8))
    np.testing.assert_allclose([alone[i] for i in range(3)], logits, rtol=1e-4, atol=1e-3)
    chances = 1 / (1 + np.exp(-logits))
    expected = np.sum(np.logaddexp(0, logits) - logits * labels)
    assert float(sums["loss"]) == pytest.approx(expected, rel=1e-3)
    assert float(sums["squared_error"]) == pytest.approx(np.sum((chances - labels) ** 2), rel=1e-3)
    assert float(sums["weight"]) == 3


def test_the_first_step_of_a_run_is_adamw_on_the_mean():
    """One step of gradient descent in the sign, with the mean over tokens and not over micro-batches."""
    from lc_jax.training import loop, optimizer, state

    settings = optimizer.OptimizerSettings(0.1, 10, 0, "constant", 0.9, 0.999, 1e-8, 0.0, 1e9)
    params = {"w": jnp.zeros(2)}
    tx = optimizer.make_optimizer(settings, {"w": True})

    def loss_fn(model, batch):
        return {"loss": jnp.sum(batch["x"] * batch["n"] * model.params["w"][0]), "weight": jnp.sum(batch["n"])}

    model = types.SimpleNamespace(with_params=lambda p: types.SimpleNamespace(params=p))
    batch = {"x": np.asarray([1.0, 1.0, 4.0, 4.0], np.float32), "n": np.asarray([1.0, 2.0, 1.0, 0.0], np.float32)}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop, "train_step", loop.train_step.__wrapped__)
        for microbatches in (1, 2):
            new, metrics = loop.train_step(
                state.create(params, tx), model, batch, loss_fn=loss_fn, tx=tx, microbatches=microbatches
            )
            # d/dw of the mean: (1 + 2 + 4 + 0) / 4; Adam's first step is the learning rate against its sign.
            assert float(metrics["grad_norm"]) == pytest.approx(7 / 4)
            np.testing.assert_allclose(new.params["w"], [-0.1, 0], atol=1e-6)
