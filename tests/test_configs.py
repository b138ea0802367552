"""Every experiment: its config builds at both sizes, and its training step traces at full size on eight devices."""

import functools
import importlib.util
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from lc_jax import parallel
from lc_jax.models import registry
from lc_jax.models.transformer import trainable
from lc_jax.rl import reward, reward_model, update
from lc_jax.rl.actor_critic import ActorCritic
from lc_jax.rl.loss import LossSettings
from lc_jax.rl.reader import AnswerForecasts
from lc_jax.training import language_model, loop
from lc_jax.training import state as states
from lc_jax.training.optimizer import OptimizerSettings, make_optimizer
from tests import programs
from tests.rl.records import outcomes_of

ROOT = Path(__file__).resolve().parents[1]
EXPERIMENTS = sorted(p.stem for p in (ROOT / "configs").glob("*.py") if p.stem != "base")
TRAINED = [
    "sft_lc",
    "sft_factuality",
    "sft_claude_distill",
    "extract_answers",
    "forecast_probs",
    "factuality_reward",
    "sft",
    "reward_model",
]
GIB = 2**30


def config_of(name, mode=""):
    spec = importlib.util.spec_from_file_location(name, ROOT / "configs" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config(mode)


def abstract_model(config, kind, mesh, frozen=False):
    preset = "redpajama-incite-3b" if "RedPajama" in config.get("model", "") else "llama-2-7b"
    precision = dict(config.precision)
    if frozen:
        precision["param_dtype"] = precision["compute_dtype"]
    return registry.abstract_model(registry.from_preset(preset, **precision), kind, mesh)


def local_bytes(tree):
    """Bytes on one device."""
    leaves = [leaf for leaf in jax.tree.leaves(tree) if leaf.sharding is not None]
    return sum(int(np.prod(x.sharding.shard_shape(x.shape))) * x.dtype.itemsize for x in leaves)


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_builds_in_every_mode(name):
    modes = {"pretrain": ("llama", "gpt_neox")}
    for mode in modes.get(name, ("", "mini")):
        config = config_of(name, mode)
        assert (ROOT / "lc_jax" / "tasks" / f"{config.task}.py").is_file()


@pytest.mark.parametrize("name", TRAINED)
def test_supervised_step_at_full_size(name):
    config, mesh = config_of(name), parallel.make_mesh(1, 4, 2)
    kind = "scalar" if config.task == "reward_model" else "causal"
    with jax.set_mesh(mesh):
        model = abstract_model(config, kind, mesh)
        tx = make_optimizer(OptimizerSettings.from_ratio(100, **config.optimizer), trainable(model.params))
        state = states.abstract(model.params, tx)
        batch, length = config.fit.batch_size, config.data.max_length
        sharding = jax.NamedSharding(mesh, parallel.partition_spec((batch, length), ("batch", None), mesh))
        arrays = {
            "tokens": jax.ShapeDtypeStruct((batch, length), jnp.int32, sharding=sharding),
            "lengths": jax.ShapeDtypeStruct((batch,), jnp.int32),
        }
        if kind == "scalar":
            loss_fn = reward_model.loss_fn
            arrays |= {k: jax.ShapeDtypeStruct((batch,), jnp.float32) for k in ("labels", "weights")}
        else:
            loss_fn = language_model.loss_fn
            arrays["first_targets"] = jax.ShapeDtypeStruct((batch,), jnp.int32)
        micro = config.fit.batch_size // config.fit.microbatch_size
        step = functools.partial(loop.train_step, loss_fn=loss_fn, tx=tx, microbatches=micro)
        new, metrics = jax.eval_shape(step, state, model.with_params(None), arrays)
    assert metrics["loss"].shape == ()
    assert [x.shape for x in jax.tree.leaves(new)] == [x.shape for x in jax.tree.leaves(state)]
    # fp32 parameters and two fp32 moments, shared by eight devices: only norms and biases are whole on each.
    total = sum(x.size * 4 for x in jax.tree.leaves(model.params))
    assert local_bytes(state.params) < 1.01 * total / 8 + 0.01 * GIB
    assert local_bytes(state.opt_state) < 2.02 * total / 8 + 0.02 * GIB


@pytest.mark.parametrize("name", ["ppo", "ppo_factuality"])
def test_ppo_step_at_full_size(name):
    config, mesh = config_of(name), parallel.make_mesh(1, 4, 2)
    forecasts = AnswerForecasts(np.zeros(1, np.float32), np.zeros((1, 1), np.float32), np.ones((1, 1), bool))
    settings = reward.RewardSettings(**config.reward)  # the reward's settings are ones it takes
    reward.compute(forecasts, outcomes_of(forecasts), settings)
    ppo = config.ppo
    with jax.set_mesh(mesh):
        policy, critic = abstract_model(config, "causal", mesh), abstract_model(config, "scalar", mesh)
        actor_critic = ActorCritic(policy, critic)
        tx = make_optimizer(OptimizerSettings.from_ratio(100, **config.optimizer), trainable(actor_critic.params()))
        state = states.abstract(actor_critic.params(), tx)
        size, width = ppo.microbatch_size, ppo.query_length + ppo.response_length

        episodes, settings = programs.abstract_episodes(size, width, ppo.response_length), LossSettings(**config.loss)
        number = jax.ShapeDtypeStruct((), jnp.float32)
        grads = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32), state.params)
        for name, model in actor_critic.models().items():
            add = functools.partial(update.add_gradients, objective=update.OBJECTIVES[name], settings=settings)
            grads[name], stats = jax.eval_shape(add, grads[name], model, episodes, number, number)
            assert stats["loss"].shape == ()
        new, norm = jax.eval_shape(functools.partial(update.apply_gradients, tx=tx), state, grads)
    assert norm.shape == ()
    assert [x.shape for x in jax.tree.leaves(new)] == [x.shape for x in jax.tree.leaves(state)]
    assert local_bytes(state.params) < 7.1 * GIB  # two 7B models in fp32 over eight devices


@pytest.mark.parametrize("name", ["ppo", "ppo_factuality"])
def test_one_switch_turns_the_published_arithmetic_on(name):
    def settings(config):
        where = [("loss", "masked"), ("advantage", "masked"), ("advantage", "clamp_kl"), ("advantage", "whiten_groups")]
        where += [("ppo", "clean_up"), ("reader", "top_k"), ("reader", "validation_top_p")]
        return [config[part][field] for part, field in where]

    config = config_of(name)
    assert settings(config) == [True, True, False, 1, False, 0, 1.0]
    config.published = True
    assert settings(config) == [False, False, True, 8, True, 50, 0.9]
    assert LossSettings(**config.loss) == LossSettings(masked=False)
    assert '"masked": false' in config.loss.to_json()
    config.loss.masked = True  # what is set by itself stays
    assert settings(config) == [True, False, True, 8, True, 50, 0.9]
    assert config_of(name, "mini").published is False


def test_validation_follows_the_questions_of_ppo_unless_it_is_given():
    config = config_of("ppo")
    config.questions.source = "mine.csv"
    assert config.validation.source == "mine.csv"
    config.validation.source = "other.csv"
    assert (config.questions.source, config.validation.source) == ("mine.csv", "other.csv")
