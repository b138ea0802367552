"""One device and eight (fsdp 4 x tensor 2) train alike: SFT, reward model and PPO, five steps each."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lc_jax import parallel
from lc_jax.data.examples import Encoded
from lc_jax.inference import generate
from lc_jax.models import registry
from lc_jax.models.config import Lora
from lc_jax.models.transformer import trainable
from lc_jax.rl import advantage, batch, reward_model, rollout, update
from lc_jax.rl.actor_critic import ActorCritic
from lc_jax.rl.loss import LossSettings
from lc_jax.training import language_model, loop
from lc_jax.training import state as states
from lc_jax.training.optimizer import OptimizerSettings, make_optimizer
from tests import programs

STEPS = 5
ADAPTERS = "adapters of tiny-llama"
OPTIMIZER = OptimizerSettings(1e-2, 100, 0, "constant", 0.9, 0.999, 1e-8, 0.01, 1.0)


def meshes():
    return programs.mesh_of(), programs.mesh_of(1, 4, 2)


def model_on(mesh, kind, family="tiny-llama", seed=0, compute_dtype="float32"):
    """A model of a family, or the Llama with adapters."""
    lora = Lora(4, 8.0) if family == ADAPTERS else None
    preset = "tiny-llama" if lora else family
    config = registry.from_preset(preset, param_dtype="float32", compute_dtype=compute_dtype, lora=lora)
    return registry.initialize(config, jax.random.key(seed), mesh, kind)


def sequences(rng, count, length=20):
    return [rng.integers(3, 256, int(rng.integers(6, length))).tolist() for _ in range(count)]


def supervised_losses(mesh, kind, microbatches, family="tiny-llama", compute_dtype="float32"):
    rng = np.random.default_rng(0)
    texts = sequences(rng, 16)
    if kind == "scalar":
        data, loss_fn = reward_model.dataset(texts, rng.random(16).tolist()), reward_model.loss_fn
    else:
        data, loss_fn = language_model.dataset([Encoded(tuple(t), 3) for t in texts]), language_model.loss_fn
    losses = []
    with jax.set_mesh(mesh):
        model = model_on(mesh, kind, family, compute_dtype=compute_dtype)
        tx = make_optimizer(OPTIMIZER, trainable(model.params))
        state = states.create(model.params, tx)
        for _ in range(STEPS):
            batch = parallel.put_batch(dict(data.collate(np.arange(16))))
            state, metrics = loop.train_step(
                state, model.with_params(None), batch, loss_fn=loss_fn, tx=tx, microbatches=microbatches
            )
            losses.append(float(metrics["loss"]))
    return losses


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["causal", "scalar"])
def test_supervised_training(kind):
    one, eight = meshes()
    expected = supervised_losses(one, kind, 1)
    assert expected[-1] < expected[0]
    np.testing.assert_allclose(supervised_losses(eight, kind, 2), expected, rtol=1e-5)


@pytest.mark.slow
def test_supervised_training_in_bfloat16():
    """Its products have a form of their own on CPUs (kernels/matmul.py); the losses differ by rounding alone."""
    one, eight = meshes()
    expected = supervised_losses(one, "causal", 1, compute_dtype="bfloat16")
    np.testing.assert_allclose(supervised_losses(eight, "causal", 2, compute_dtype="bfloat16"), expected, rtol=2e-3)
    np.testing.assert_allclose(expected, supervised_losses(one, "causal", 1), rtol=1e-2)


# Windows and norms of whole projections; layers without positions; norms of heads, 1 + w and windows.
@pytest.mark.slow
@pytest.mark.parametrize("family", ["tiny-olmo3", "tiny-gemma3", ADAPTERS])
def test_supervised_training_of_other_families(family):
    one, eight = meshes()
    expected = supervised_losses(one, "causal", 1, family)
    assert expected[-1] < expected[0]
    np.testing.assert_allclose(supervised_losses(eight, "causal", 2, family), expected, rtol=1e-5)


def ppo_losses(mesh, family="tiny-llama"):
    rng = np.random.default_rng(0)
    prompts, responses = sequences(rng, 16, 9), sequences(rng, 16, 9)
    completions = [generate.Completion(tokens, [0.0] * len(tokens), True) for tokens in responses]
    losses = []
    with jax.set_mesh(mesh):
        actor_critic = ActorCritic(model_on(mesh, "causal", family), model_on(mesh, "scalar", family, 1))
        reference = model_on(mesh, "causal", family, 2)
        tx = make_optimizer(OPTIMIZER, trainable(actor_critic.params()))
        packed = batch.pack(prompts, completions, 12)
        episodes = rollout.score_rollout(
            actor_critic.policy, reference, actor_critic.critic, packed, temperature=0.7, groups=packed.groups(8)
        )
        scores = rng.normal(size=16).astype(np.float32)
        episodes, _ = advantage.estimate(episodes, scores, 0.1, advantage.AdvantageSettings())
        settings = update.UpdateSettings(STEPS, 16, 8, 0.7, LossSettings())
        state, structure = states.create(actor_critic.params(), tx), actor_critic.with_params(None)
        _, stats = update.update(state, structure, episodes, tx=tx, settings=settings, seed=0)
        losses = [s["loss"] for s in stats]
    return losses


# Joint projections; four norms, softcaps and windows.
@pytest.mark.slow
@pytest.mark.parametrize("family", ["tiny-llama", "tiny-phi3", "tiny-gemma2", ADAPTERS])
def test_ppo(family):
    one, eight = meshes()
    expected = ppo_losses(one, family)
    assert expected[-1] < expected[0]
    np.testing.assert_allclose(ppo_losses(eight, family), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.slow
def test_generation():
    """The same greedy tokens; the weights that the loop reads are whole on the fsdp axis, in the compute dtype."""
    prompts, results = sequences(np.random.default_rng(0), 8, 9), []
    for mesh in meshes():
        with jax.set_mesh(mesh):
            model = model_on(mesh, "causal")
            sampling = generate.Sampling(8, temperature=0.0)
            results.append([c.tokens for c in generate.generate(model, prompts, sampling, seed=0, batch_size=8)])
            low = dataclasses.replace(model.config, compute_dtype="bfloat16")
            copy = generate.for_decoding(dataclasses.replace(model, config=low))
    assert results[0] == results[1]
    for name, (whole, leaf) in {
        "matrix": (model.bind().layers.up.kernel[...], copy.bind().layers.up.kernel[...]),
        "embedding": (model.bind().embedding[...], copy.bind().embedding[...]),
    }.items():
        assert leaf.dtype == jnp.bfloat16, name
        assert "fsdp" in str(whole.sharding.spec), name
        assert "fsdp" not in str(leaf.sharding.spec), name
        assert "tensor" in str(leaf.sharding.spec), name
    assert copy.bind().norm.scale[...].dtype == jnp.float32


def test_into_the_hosts_memory_and_back():
    _, mesh = meshes()
    params = model_on(mesh, "causal").params
    away = parallel.to_memory_kind(params, "pinned_host")
    back = parallel.to_memory_kind(away, None)
    for before, there, after in zip(*map(jax.tree.leaves, (params, away, back)), strict=True):
        assert there.sharding.memory_kind == "pinned_host"
        assert after.sharding.is_equivalent_to(before.sharding, before.ndim)
        np.testing.assert_array_equal(before, after)


def test_born_in_shards():
    """No parameter and no moment of a model is whole on a device where the mesh divides it."""
    _, mesh = meshes()
    with jax.set_mesh(mesh):
        model = model_on(mesh, "causal")
        state = states.create(model.params, make_optimizer(OPTIMIZER, trainable(model.params)))
    for leaf in jax.tree.leaves((state.params, state.opt_state)):
        if leaf.ndim >= 2 and leaf.size > 1000:
            assert leaf.addressable_shards[0].data.size * 8 == leaf.size, leaf.shape
    assert jnp.isfinite(state.step)
