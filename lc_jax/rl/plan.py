"""The memory plan of PPO: what each phase of a step keeps on a device, and the batch sizes that fit."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from lc_jax.data import batches
from lc_jax.inference import generate, score
from lc_jax.models.transformer import Model
from lc_jax.rl import batch, consistency, rollout, update
from lc_jax.training import plan
from lc_jax.training import state as states
from lc_jax.training.optimizer import Optimizer

TAIL = 4  # the forecaster reads a paragraph once, and behind it answers of a fourth of its length in all


@dataclasses.dataclass(frozen=True)
class Models:
    """The models of a step, as plan.outline gives them."""

    actor_critic: update.ActorCritic
    reference: Model
    extractor: Model | None
    forecaster: Model


@dataclasses.dataclass(frozen=True)
class Sizes:
    """Tokens and episodes of a step. A decode_batch_size or update.microbatch_size of 0 is chosen: as many as fit."""

    query_length: int
    writing: generate.Sampling
    decode_batch_size: int
    update: update.UpdateSettings
    reader_length: int
    extracting: generate.Sampling | None
    reader_batch_size: int
    frozen_on_host: bool = False  # while policy and critic are trained


def ppo(models: Models, sizes: Sizes, tx: Optimizer) -> tuple[Sizes, plan.Plan]:
    """The sizes with those that were left open chosen, and the plan; in force must be the mesh of the models."""
    phases = _Phases(models, sizes, states.abstract(models.actor_critic.params(), tx), tx)
    limit = plan.device_bytes()
    decode, micro = sizes.decode_batch_size, sizes.update.microbatch_size
    if not decode:
        decode, _ = plan.most(sizes.update.minibatch_size, lambda n: plan.Plan([phases.generate(n)], limit))
    if not micro:
        micro, _ = plan.most(
            sizes.update.minibatch_size,
            lambda n: plan.Plan([phases.logprobs(n), *phases.noise(n), *phases.gradients(n)], limit),
        )
    rows = [
        phases.generate(decode), *phases.read(), phases.logprobs(micro), *phases.noise(micro), *phases.gradients(micro),
        phases.optimizer(),
    ]  # fmt: skip
    settings = dataclasses.replace(sizes.update, microbatch_size=micro)
    return dataclasses.replace(sizes, decode_batch_size=decode, update=settings), plan.Plan(rows, limit)


def cache_bytes(model: Model, count: int, width: int, sampling: generate.Sampling) -> float:
    """Keys and values on a device while `count` prompts of up to `width` tokens are continued."""
    config, mesh = model.config, jax.tree.leaves(model.params)[0].sharding.mesh
    slots = batches.bucket_length(width) + sampling.max_new_tokens
    cache = 2.0 * config.num_layers * count * config.num_kv_heads * slots * config.head_dim
    return cache * jnp.dtype(config.compute_dtype).itemsize / mesh.size


def writing(model: Model, count: int, width: int, sampling: generate.Sampling) -> plan.Plan:
    """The plan of one model that writes, `count` prompts of up to `width` tokens at a time."""
    cache = cache_bytes(model, count, width, sampling)
    work = plan.peak(generate.trace(model, count, width, sampling), plan.divide([model]))
    held = plan.shard_bytes(model.params)
    phase = plan.Phase("generate", held, 0.0, 0.0, cache, max(work - cache, 0.0), "lower batch_size")
    return plan.Plan([phase], plan.device_bytes())


def abstract_episodes(count: int, width: int, response: int) -> batch.Episodes:
    """Returns episodes as shapes."""

    def array(*shape: int, dtype: Any = jnp.int32) -> Any:
        return jax.ShapeDtypeStruct((count, *shape), dtype)

    numbers = dict.fromkeys(batch.PER_POSITION, array(response, dtype=jnp.float32))
    return batch.Episodes(array(width), array(response), array(), array(), array(width), array(), **numbers)


@dataclasses.dataclass(frozen=True)
class _Phases:
    models: Models
    sizes: Sizes
    state: states.TrainState
    tx: Optimizer

    def phase(
        self, name: str, traced: Any, lower: str, *, donated: Any = (), copy: Any = None, **kinds: float
    ) -> plan.Phase:
        """A phase in which all models and moments are there, and what `traced` makes beyond `kinds`.

        Args:
          copy: the model that `traced` reads in place of one of them.
        """
        models = self.models
        frozen = [m.params for m in (models.reference, models.extractor, models.forecaster) if m is not None]
        trained = list(models.actor_critic.models().values())
        everyone = [*trained, *(m for m in (models.reference, models.extractor, models.forecaster) if m is not None)]
        if "gradients" in kinds and self.sizes.frozen_on_host:
            frozen = []
        work = plan.peak(traced, plan.divide([*everyone, *([copy] if copy else [])]), donated)
        kinds = {"gradients": 0.0, "cache": 0.0} | kinds
        return plan.Phase(
            name, plan.shard_bytes((self.state.params, frozen, copy)), plan.shard_bytes(self.state.opt_state),
            activations=max(work - kinds["cache"], 0.0), lower=lower, **kinds,
        )  # fmt: skip

    def _generation(self, name: str, model: Model, count: int, width: int, sampling: generate.Sampling) -> plan.Phase:
        lower = "lower reader.batch_size" if name == "extract" else "lower ppo.decode_batch_size"
        copy = generate.for_decoding(model)
        traced, cache = generate.trace(model, count, width, sampling), cache_bytes(model, count, width, sampling)
        return self.phase(name, traced, lower, cache=cache, copy=None if copy is model else copy)

    def generate(self, count: int) -> plan.Phase:
        """The policy writes."""
        return self._generation(
            "generate", self.models.actor_critic.policy, count, self.sizes.query_length, self.sizes.writing
        )

    def read(self) -> list[plan.Phase]:
        """The extractor lists answers; the forecaster reads."""
        sizes, phases = self.sizes, []
        count, width = sizes.reader_batch_size, sizes.reader_length
        if self.models.extractor is not None and sizes.extracting is not None:
            phases.append(self._generation("extract", self.models.extractor, count, width, sizes.extracting))
        row = jax.ShapeDtypeStruct(
            (count, batches.bucket_length(width) + batches.bucket_length(width // TAIL)), jnp.int32
        )
        traced = score.packed_rewards.trace(self.models.forecaster, row, row)
        return [*phases, self.phase("forecast", traced, "lower reader.batch_size")]

    def _episodes(self, count: int) -> batch.Episodes:
        response = self.sizes.writing.max_new_tokens
        return abstract_episodes(count, self.sizes.query_length + response, response)

    def logprobs(self, count: int) -> plan.Phase:
        """Policy, reference and critic score what was written."""
        episodes, actor_critic = self._episodes(count), self.models.actor_critic
        number = jax.ShapeDtypeStruct((), jnp.float32)
        traced = rollout.forward.trace(
            actor_critic.policy, self.models.reference, actor_critic.critic, episodes, number
        )
        return self.phase("logprobs", traced, "lower ppo.microbatch_size")

    def noise(self, count: int) -> list[plan.Phase]:
        """The policy once more in float32 on one micro-batch (`consistency.rounding_noise`), but for a float32 policy.

        The program casts the parameters layer by layer, and so does the plan. A compiler may keep a float32 copy of
        all layers in place of that: of 7B on one device another 27 GB, with which `1xh200` still fits.
        """
        policy = self.models.actor_critic.policy
        if policy.config.dtype == jnp.float32:
            return []
        number = jax.ShapeDtypeStruct((), jnp.float32)
        traced = consistency.score.trace(consistency.in_float32(policy), self._episodes(count), number)
        return [self.phase("rounding noise", traced, "lower ppo.microbatch_size")]

    def gradients(self, count: int) -> list[plan.Phase]:
        """A phase for each learner, whose gradients are added to those before; both actor_critic' are kept."""
        episodes, number = self._episodes(count), jax.ShapeDtypeStruct((), jnp.float32)
        grads, phases = self._gradients(), []
        size = plan.shard_bytes(grads)
        lower = "lower ppo.microbatch_size, or give the mesh more devices"
        for name, model in self.models.actor_critic.models().items():
            traced = update.add_gradients.trace(
                grads[name], model, episodes, number, number,
                objective=update.OBJECTIVES[name], settings=self.sizes.update.loss,
            )  # fmt: skip
            phases.append(self.phase(f"{name} gradients", traced, lower, donated=grads[name], gradients=size))
        return phases

    def optimizer(self) -> plan.Phase:
        """One step on the parameters of policy and critic."""
        grads = self._gradients()
        traced = update.apply_gradients.trace(self.state, grads, tx=self.tx)
        lower = 'set optimizer.kind="adamw_int8", precision.param_dtype="bfloat16", or give the mesh more devices'
        return self.phase("optimizer step", traced, lower, donated=self.state, gradients=plan.shard_bytes(grads))

    def _gradients(self) -> Any:
        def float32(x: Any) -> jax.ShapeDtypeStruct:
            return jax.ShapeDtypeStruct(x.shape, jnp.float32, sharding=x.sharding)

        return jax.tree.map(float32, self.state.params)
