"""Meshes, and the programs of training and PPO, traced from shapes, whose memory and collectives tests look at."""

import jax
import jax.numpy as jnp

from lc_jax import parallel
from lc_jax.data import batches
from lc_jax.inference import generate, score
from lc_jax.models.transformer import trainable
from lc_jax.rl import batch, reward_model, rollout, update
from lc_jax.rl.loss import LossSettings
from lc_jax.training import language_model, loop
from lc_jax.training import state as states
from lc_jax.training.optimizer import OptimizerSettings, make_optimizer

OPTIMIZER = OptimizerSettings(1e-5, 100, 0, "constant", 0.9, 0.999, 1e-8, 0.0, 1.0)
NUMBER = jax.ShapeDtypeStruct((), jnp.float32)


def mesh_of(data=1, fsdp=1, tensor=1):
    """A mesh of the first devices; one by default."""
    axes = (jax.sharding.AxisType.Auto,) * 3
    return jax.make_mesh((data, fsdp, tensor), parallel.AXES, axes, devices=jax.devices()[: data * fsdp * tensor])


def integers(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def train_step(model, kind, size, micro, length):
    """A step of supervised training."""
    mesh, tx = jax.tree.leaves(model.params)[0].sharding.mesh, make_optimizer(OPTIMIZER, trainable(model.params))
    rows = {"tokens": integers(size, length), "lengths": integers(size)}
    if kind == "causal":
        rows["first_targets"] = integers(size)
    else:
        rows |= dict.fromkeys(("labels", "weights"), jax.ShapeDtypeStruct((size,), jnp.float32))
    for name, x in rows.items():
        sharding = jax.NamedSharding(mesh, parallel.partition_spec(x.shape, ("batch", *(None,) * (x.ndim - 1)), mesh))
        rows[name] = jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding)
    loss_fn = language_model.loss_fn if kind == "causal" else reward_model.loss_fn
    return loop.train_step.trace(
        states.abstract(model.params, tx), model.with_params(None), rows,
        loss_fn=loss_fn, tx=tx, microbatches=size // micro,
    )  # fmt: skip


def abstract_episodes(count, width, response):
    """Episodes as shapes."""
    numbers = dict.fromkeys(batch.PER_POSITION, jax.ShapeDtypeStruct((count, response), jnp.float32))
    tokens, lengths = integers(count, width), integers(count)
    return batch.Episodes(tokens, integers(count, response), lengths, lengths, tokens, lengths, **numbers)


def float32(params):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=x.sharding), params)


def generation(model, count, width, new):
    return generate.trace(model, count, width, generate.Sampling(new))


def forecast(model, count, width, answers):
    row = integers(count, batches.bucket_length(width) + batches.bucket_length(answers))
    return score.packed_rewards.trace(model, row, row)


def logprobs(policy, reference, critic, count, width, response):
    return rollout.forward.trace(policy, reference, critic, abstract_episodes(count, width, response), NUMBER)


def ppo_updates(policy, critic, count, width, response, optimizer=OPTIMIZER):
    """The gradients of policy and critic, and the optimiser's step, by phase."""
    episodes, models = abstract_episodes(count, width, response), {"policy": policy, "critic": critic}
    params = {name: model.params for name, model in models.items()}
    programs = {
        f"{name} gradients": update.add_gradients.trace(
            float32(model.params), model, episodes, NUMBER, NUMBER,
            objective=update.OBJECTIVES[name], settings=LossSettings(),
        )
        for name, model in models.items()
    }  # fmt: skip
    tx = make_optimizer(optimizer, trainable(params))
    step = update.apply_gradients.trace(states.abstract(params, tx), float32(params), tx=tx)
    return programs | {"optimizer step": step}
