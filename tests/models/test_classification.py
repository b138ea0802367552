"""Reward models opened by transformers as sequence classification, and read back."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lc_jax.inference.score import sequence_rewards
from lc_jax.models import classification, folders, hf
from tests.models.conftest import PRESETS, random_model

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

PAD = 255
TOKENS = np.random.default_rng(1).integers(1, PAD, (3, 9)).astype(np.int32)
LENGTHS = (9, 5, 1)


def logits(model, tokens=TOKENS):
    return np.asarray(sequence_rewards(model, jnp.asarray(tokens), jnp.asarray(LENGTHS, jnp.int32)))


@pytest.fixture(params=PRESETS)
def saved(request, mesh, tmp_path):
    """Small weights, so that float32 arithmetic of both agrees to a few digits, and a head bias of 0.7."""
    model = random_model(mesh, request.param, "scalar")
    model = model.with_params(jax.tree.map(lambda x: 0.2 * x, model.params))
    module = model.bind()
    module.reward_head.bias[...] = jnp.asarray([0.7], jnp.float32)
    model = type(model).of(module)
    classification.save(tmp_path / "model", model, pad_id=PAD)
    return model, tmp_path / "model"


def test_transformers_computes_the_same_rewards(saved):
    model, folder = saved
    theirs, report = transformers.AutoModelForSequenceClassification.from_pretrained(folder, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    padded = np.where(np.arange(9) < np.asarray(LENGTHS)[:, None], TOKENS, PAD)
    tokens = torch.tensor(padded, dtype=torch.long)
    with torch.no_grad():
        scores = theirs(tokens, attention_mask=(tokens != PAD).long()).logits
    assert scores.shape == (3, 1)
    bias = json.loads((folder / "config.json").read_text()).get("reward_head_bias", 0.0)
    assert bias == pytest.approx(0.7 if "llama" in theirs.config.model_type else 0.0)
    np.testing.assert_allclose(scores[:, 0].numpy() + bias, logits(model), rtol=1e-4, atol=1e-4)


def test_the_folder_loads_back_as_a_reward_model(saved, mesh, tmp_path):
    model, folder = saved
    assert folders.config_of(folder)[1] == "scalar"
    back = hf.load(folder, mesh, kind="scalar")
    np.testing.assert_allclose(logits(back), logits(model), rtol=1e-5, atol=1e-5)
    hf.save(tmp_path / "published", back)
    np.testing.assert_array_equal(logits(hf.load(tmp_path / "published", mesh, kind="scalar")), logits(back))
    fresh = hf.load(folder, mesh, kind="scalar", fresh_head=True)
    np.testing.assert_array_equal(logits(fresh), 0.0)
    with pytest.raises(ValueError, match="is a reward model"):
        hf.load(folder, mesh)


@pytest.mark.parametrize("preset", PRESETS)
def test_bfloat16_weights_lose_nothing_of_the_bias(preset, mesh, tmp_path):
    """A final norm's bias of size 1 takes up 0.7 in shares of about 0.01, of which bfloat16 would keep little."""
    model = random_model(mesh, preset, "scalar", param_dtype="bfloat16", compute_dtype="float32")
    module = model.bind()
    module.reward_head.bias[...] = jnp.asarray([0.7], jnp.bfloat16)
    model = type(model).of(module)
    classification.save(tmp_path / "model", model, pad_id=PAD)
    back = hf.load(tmp_path / "model", mesh, kind="scalar", param_dtype="bfloat16", compute_dtype="float32")
    np.testing.assert_allclose(logits(back), logits(model), rtol=1e-5, atol=2e-5)


def test_a_language_model_is_refused(mesh, tmp_path):
    with pytest.raises(ValueError, match="A language model has no reward"):
        classification.save(tmp_path / "model", random_model(mesh))
    assert not (tmp_path / "model").exists()
