"""Memory of programs on each device, from closed formulas: nothing is traced, compiled or allocated.

Parameters, moments and gradients are exact; activations are those of lc_jax/activations.py.

Asking XLA instead costs a compilation for each size that is tried: of Llama 2 7B 2 to 14 seconds a program on two CPU
cores, of PPO 40 seconds for one set of sizes. The formulas take milliseconds, also for devices that are not there.
tests/test_memory.py compares them with `compiled.memory_analysis()` of the same programs, and states the error. It is
of float32 programs: in bfloat16, XLA's CPU compiler converts some operands to float32 (kernels/matmul.py).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from absl import logging

from lc_jax import parallel
from lc_jax.activations import Activations, device_bytes, noise_rows
from lc_jax.data import batches
from lc_jax.models import registry
from lc_jax.models.config import training_fields
from lc_jax.models.source import Source, causal_path, shareable
from lc_jax.models.transformer import Model, trainable
from lc_jax.training import state as states
from lc_jax.training.optimizer import OptimizerSettings, make_optimizer

GB = 1e9
SMALLER_STATE = (
    'set optimizer.kind="adamw_int8_master" or "adamw_int8" with precision.param_dtype="bfloat16", or give the mesh '
    "more devices"
)
ANSWERS = 1 / 4  # tokens of all answers to a paragraph, for each token of the forecaster's prompt


@dataclasses.dataclass(frozen=True)
class Phase:
    """Bytes that one phase of a run takes on each device; `lower` names the setting that makes them fewer."""

    name: str
    parameters: float
    moments: float
    gradients: float
    cache: float  # keys and values of generation
    activations: float  # everything else that the phase's program allocates
    lower: str

    @property
    def state(self) -> float:
        """The bytes that no batch size makes fewer."""
        return self.parameters + self.moments + self.gradients

    @property
    def total(self) -> float:
        """The sum of all."""
        return self.state + self.cache + self.activations


@dataclasses.dataclass(frozen=True)
class Plan:
    """The phases of a run against the memory of a device, with the batch sizes that the settings leave open (0)."""

    phases: Sequence[Phase]
    limit: float  # bytes
    microbatch_size: int = 0
    decode_batch_size: int = 0

    @property
    def fits(self) -> bool:
        """True if every phase fits."""
        return all(phase.total <= self.limit for phase in self.phases)

    def __str__(self) -> str:
        kinds = ("parameters", "moments", "gradients", "cache", "activations", "total")
        lines = [f"{'GB on each device':20s}" + "".join(f"{kind:>12s}" for kind in kinds)]
        for phase in self.phases:
            lines.append(f"{phase.name:20s}" + "".join(f"{getattr(phase, kind) / GB:12.3f}" for kind in kinds))
        over = [phase for phase in self.phases if phase.total > self.limit]
        for phase in over:
            remedy = SMALLER_STATE if phase.state > self.limit else phase.lower
            lines.append(f"{phase.name} exceeds the device's {self.limit / GB:.1f} GB: {remedy}.")
        return "\n".join(lines if over else [*lines, f"Fits into {self.limit / GB:.1f} GB."])

    def report(self) -> None:
        """Logs the table, as a warning where it does not fit."""
        logging.log(logging.INFO if self.fits else logging.WARNING, "Memory:\n%s", self)


def abstract_model(
    name: str, mesh: parallel.AnyMesh, kind: str = "causal", backbone: Model | None = None, **fields: Any
) -> Model:
    """Returns the model of a checkpoint or of a preset's name as shapes only, with its shardings over the mesh.

    Args:
      backbone, fields: as in `hf.read`; a preset that is also that of `backbone` has its adapters.
    """
    if registry.is_preset(name):
        config = registry.from_preset(name, **fields)
        theirs = backbone.config.lora if backbone is not None else None
        lora = config.lora or (theirs if theirs is not None and theirs.base == name else None)
        lora = lora and dataclasses.replace(lora, base=name)
    else:
        source = Source.at(name)
        config = source.config(**fields)[0]
        lora = source.lora(config, backbone)
    return registry.abstract_model(dataclasses.replace(config, lora=lora), kind, mesh)


def shard_bytes(tree: Any, dtype: str = "") -> float:
    """Returns the bytes on one device of arrays, abstract or not, by their shardings; as if of `dtype`, if given."""

    def local(x: Any) -> int:
        sharding = getattr(x, "sharding", None)
        shape = x.shape if sharding is None else sharding.shard_shape(x.shape)
        return math.prod(shape) * jnp.dtype(dtype or x.dtype).itemsize

    return float(sum(map(local, jax.tree.leaves(tree))))


def frozen_bytes(policy: Model, others: Sequence[Model]) -> float:
    """Returns the bytes on one device of the frozen parameters of models; what the others share with the policy counts
    once."""
    total = shard_bytes(policy.frozen)
    for model in others:
        arrays = shareable(policy, model.config)
        for path, leaf in registry.named_leaves(model.frozen):
            ours = arrays.get(causal_path(path))
            is_shared = ours is not None and (ours.shape, ours.dtype) == (leaf.shape, leaf.dtype)
            total += 0.0 if is_shared else shard_bytes(leaf)
    return total


def largest_fitting(total: int, fits: Callable[[int], bool]) -> int:
    """Returns the largest size that divides `total` and fits, or 1."""
    return next((size for size in range(total, 0, -1) if total % size == 0 and fits(size)), 1)


def plan_training(settings: Mapping[str, Any], mesh: parallel.AnyMesh, kind: str = "causal") -> Plan:
    """Returns the plan of a task that trains one model.

    Args:
      settings: of the task, by name; with a fit.microbatch_size of 0 the largest that fits is chosen.
      kind: as in `registry.build`.
    """
    model = abstract_model(settings["model"], mesh, kind, **training_fields(settings))
    length, fit = settings["data"]["max_length"], settings["fit"]
    tx = make_optimizer(OptimizerSettings.from_ratio(1, **settings["optimizer"]), trainable(model.params))
    moments, trained = shard_bytes(states.abstract(model.params, tx).opt_state), shard_bytes(model.params)
    parameters = trained + shard_bytes(model.frozen)
    activations, positions = Activations(model), length if kind == "causal" else 0

    def plan(size: int) -> Plan:
        sums = 0.0 if size == fit["batch_size"] else shard_bytes(model.params, "float32")  # over micro-batches
        work = activations.backward(size, length, positions)
        lower = "lower fit.microbatch_size, or give the mesh more devices"
        return Plan([Phase("train", parameters, moments, trained + sums, 0.0, work, lower)], device_bytes(), size)

    micro = min(fit["microbatch_size"], fit["batch_size"])
    return plan(micro or largest_fitting(fit["batch_size"], lambda size: plan(size).fits))


def plan_generation(settings: Mapping[str, Any], mesh: parallel.AnyMesh, width: int) -> Plan:
    """Returns the plan of a task whose model only writes, from prompts of up to `width` tokens.

    Args:
      settings: of the task, by name.
    """
    model = abstract_model(settings["model"], mesh, **_inference(settings["precision"]))
    activations = Activations(model)
    cache, work = activations.generation(settings["batch_size"], width, settings["max_new_tokens"])
    parameters = shard_bytes(model) + activations.decoding_copy
    return Plan([Phase("generate", parameters, 0.0, 0.0, cache, work, "lower batch_size")], device_bytes())


def plan_ppo(settings: Mapping[str, Any], mesh: parallel.AnyMesh) -> Plan:
    """Returns the plan of PPO.

    Args:
      settings: of the task, by name; where ppo.decode_batch_size or ppo.microbatch_size is 0, the largest that fits is
        chosen.
    """
    ppo, read, precision = settings["ppo"], settings["reader"], settings["precision"]
    fields = training_fields(settings)
    policy = abstract_model(settings["policy"], mesh, **fields)
    inference_fields: dict[str, Any] = {**_inference(precision), "backbone": policy}
    reference = abstract_model(settings["policy"], mesh, **_inference(fields))
    forecaster = abstract_model(read["forecaster"], mesh, "scalar", **inference_fields) if read["forecaster"] else None
    extractor = abstract_model(read["extractor"], mesh, **inference_fields) if read["extractor"] else None
    trained = {"policy": policy}
    if str(ppo["baseline"]).startswith("critic"):
        trained["critic"] = abstract_model(settings["critic"], mesh, "scalar", backbone=policy, **fields)

    params = {name: model.params for name, model in trained.items()}
    tx = make_optimizer(OptimizerSettings.from_ratio(1, **settings["optimizer"]), trainable(params))
    moments, gradients = shard_bytes(states.abstract(params, tx).opt_state), shard_bytes(params, "float32")
    others = [model for model in (reference, forecaster, extractor) if model is not None]
    on_device = shard_bytes([model.params for model in others if model.frozen is not None])  # all the time
    on_device += frozen_bytes(policy, [*(m for m in trained.values() if m is not policy), *others])
    offloadable = shard_bytes([model.params for model in others if model.frozen is None])
    length, response = ppo["query_length"] + ppo["response_length"], ppo["response_length"]

    def inference(name: str, lower: str, work: float, *, cache: float = 0.0, copy: float = 0.0) -> Phase:
        return Phase(name, shard_bytes(params) + on_device + offloadable + copy, moments, 0.0, cache, work, lower)

    def training(name: str, lower: str, work: float) -> Phase:
        parameters = shard_bytes(params) + on_device + (0.0 if ppo["frozen_on_host"] else offloadable)
        return Phase(name, parameters, moments, gradients, 0.0, work, lower)

    def write(count: int) -> list[Phase]:
        writer = Activations(policy)
        cache, work = writer.generation(count, ppo["query_length"], response)
        return [inference("generate", "lower ppo.decode_batch_size", work, cache=cache, copy=writer.decoding_copy)]

    def read_paragraphs(count: int) -> list[Phase]:
        phases, lower, width = list[Phase](), "lower reader.batch_size", read["max_length"]
        if extractor is not None:
            writer = Activations(extractor)
            cache, work = writer.generation(count, width, read["max_new_tokens"])
            phases.append(inference("extract", lower, work, cache=cache, copy=writer.decoding_copy))
        if forecaster is None:  # rules read, without a model
            return phases
        length = batches.bucket_length(width) + batches.bucket_length(int(width * ANSWERS))
        scorer = Activations(forecaster)
        work = scorer.forward(count, length, 0, scorer.unfused("blocked"))
        return [*phases, inference("forecast", lower, work)]

    def update(count: int) -> list[Phase]:
        lower = "lower ppo.microbatch_size"
        phases = [inference("logprobs", lower, Activations(policy).forward(count, length, response))]
        if policy.config.dtype != jnp.float32:  # the policy once more in float32 (rl/consistency.py)
            exact = abstract_model(settings["policy"], mesh, **{**fields, "compute_dtype": "float32"})
            work = Activations(exact).forward(noise_rows(count, mesh), length, response)
            phases.append(inference("rounding noise", lower, work))
        for name, model in trained.items():
            positions = response if name == "policy" else 0
            work = shard_bytes(model.params) + Activations(model).backward(count, length, positions)
            phases.append(training(f"{name} gradients", f"{lower}, or give the mesh more devices", work))
        return phases

    def fits(phases: Callable[[int], list[Phase]]) -> Callable[[int], bool]:
        return lambda size: Plan(phases(size), device_bytes()).fits

    minibatch = min(ppo["minibatch_size"], ppo["rollout_batch_size"])
    decode = ppo["decode_batch_size"] or largest_fitting(minibatch, fits(write))
    micro = min(ppo["microbatch_size"], minibatch) or largest_fitting(minibatch, fits(update))
    lower = 'set optimizer.kind="adamw_int8", precision.param_dtype="bfloat16", or give the mesh more devices'
    step = training("optimizer step", lower, max(shard_bytes(x, "float32") for x in jax.tree.leaves(params)))
    return Plan([*write(decode), *read_paragraphs(read["batch_size"]), *update(micro), step], device_bytes(), micro,
                decode)  # fmt: skip


def _inference(precision: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the precision of a model that is not trained."""
    return {**precision, "param_dtype": precision["compute_dtype"]}
