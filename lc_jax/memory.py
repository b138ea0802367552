"""Memory of programs on each device, from closed formulas: nothing is traced, compiled or allocated.

Parameters, moments and gradients are exact. Activations are counted for each token, after Korthikanti et al. (2022,
"Reducing activation recomputation in large transformer models"), but for our blocks and with XLA's work space.

Asking XLA instead costs a compilation for each size that is tried: of Llama 2 7B 2 to 14 seconds a program on two CPU
cores, of PPO 40 seconds for one set of sizes. The formulas take milliseconds, also for devices that are not there.
tests/test_memory.py compares them with `compiled.memory_analysis()` of the same programs, and states the error. It is
of float32 programs: XLA's CPU compiler multiplies bfloat16 as float32, and so keeps float32 copies of all weights.
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from absl import logging

from lc_jax import parallel
from lc_jax.data import batches
from lc_jax.inference import generate
from lc_jax.kernels import dispatch, logprobs
from lc_jax.models import folders, registry
from lc_jax.models.transformer import UNROLL, Model, trainable
from lc_jax.training import state as states
from lc_jax.training.optimizer import OptimizerSettings, make_optimizer

GB = 1e9
SMALLER_STATE = (
    'set optimizer.kind="adamw_int8_master" or "adamw_int8" with precision.param_dtype="bfloat16", or give the mesh '
    "more devices"
)
ANSWERS = 1 / 4  # tokens of all answers to a paragraph, for each token of the forecaster's prompt
_LIMIT: contextvars.ContextVar[float | None] = contextvars.ContextVar("limit", default=None)


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


@contextlib.contextmanager
def for_devices_of(limit: float) -> Iterator[None]:
    """Makes plans inside be for accelerators with room for `limit` bytes of arrays, in place of this machine."""
    token = _LIMIT.set(limit)
    try:
        yield
    finally:
        _LIMIT.reset(token)


def device_bytes() -> float:
    """Returns the memory of one device that arrays may take; of a CPU its part of the machine's."""
    if (limit := _LIMIT.get()) is not None:
        return limit
    stats = jax.local_devices()[0].memory_stats() or {}
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return float(stats.get("bytes_limit") or machine / jax.local_device_count())


def abstract_model(name: str, mesh: parallel.AnyMesh, kind: str = "causal", **precision: str) -> Model:
    """Returns the model of a checkpoint or of a preset's name as shapes only, with its shardings over the mesh."""
    try:
        config = registry.from_preset(name, **precision)
    except ValueError:
        config = folders.config_of(name, **precision)[0]
    return registry.abstract_model(config, kind, mesh)


def shard_bytes(tree: Any, dtype: str = "") -> float:
    """Returns the bytes on one device of arrays, abstract or not, by their shardings; as if of `dtype`, if given."""

    def local(x: Any) -> int:
        sharding = getattr(x, "sharding", None)
        shape = x.shape if sharding is None else sharding.shard_shape(x.shape)
        return math.prod(shape) * jnp.dtype(dtype or x.dtype).itemsize

    return float(sum(map(local, jax.tree.leaves(tree))))


class Copies(NamedTuple):
    """Numbers of float32 copies of a layer's attention scores that XLA holds at once."""

    forward: float
    backward: float
    saved: float  # by each layer for the backward pass


# Counted in XLA's figures of the programs; fused kernels hold none.
SCORES = {"portable": Copies(3.0, 4.0, 2.0), "blocked": Copies(0.7, 2.5, 0.0)}
SCORES |= dict.fromkeys(dispatch.FUSED, Copies(0.0, 0.0, 0.0))


class Activations:
    """Bytes of the activations of a model's programs on one device.

    Below, D is the hidden size, A and P are the widths of all heads of queries and of keys, F is the inner size of the
    MLP, n its matrices [D, F] (2 where it is gated). D is not divided over the tensor axis, the others are.
    """

    def __init__(self, model: Model) -> None:
        config, self.mesh = model.config, jax.tree.leaves(model.params)[0].sharding.mesh
        self.config, tensor = config, self.mesh.shape["tensor"]
        self.size = config.dtype.itemsize
        hidden, inner = config.hidden_size, config.intermediate_size / tensor
        queries, keys = config.num_heads * config.head_dim / tensor, config.num_kv_heads * config.head_dim / tensor
        matrices = [leaf.shape[1:] for leaf in jax.tree.leaves(model.params) if leaf.ndim == 3]
        count, n = len(matrices), 2 if config.gated_mlp else 1
        norms = 4 if config.norm_placement == "both" else 2
        self.input = self.size * hidden  # of a block, for each token; the other numbers likewise
        # Saved for the backward pass: the input of every matrix; queries, keys, values and the output of attention;
        # what the MLP's activation is computed from; and of each norm its input and two results, in float32.
        inputs = (count - 2) * hidden + queries + inner
        self.all = self.size * (inputs + 2 * (queries + keys) + (1 + 2 * n) * inner) + norms * 3 * 4 * hidden
        if config.activation.startswith("gelu"):  # two more arrays: its square and its tanh, or what its erf is made of
            self.all += self.size * 2 * inner
        if config.qk_norm != "none":
            self.all += 3 * 4 * (queries + keys)
        self.outputs = self.size * (hidden + queries + 2 * keys + n * inner)  # of every matrix but the last
        # The most at one time within a block: in the MLP, or in attention.
        self.mlp = self.size * (2 * hidden + (1 + n) * inner)
        self.attention = self.size * (2 * hidden + 2 * (queries + keys))
        self.inner = self.size * (1 + n) * inner
        self.gradients = self.size * 12 * hidden + self.inner
        # A block's weights, and head and embedding, that are gathered from the fsdp axis.
        gathered = self.mesh.shape["fsdp"] > 1
        self.weights = self.size * sum(map(math.prod, matrices)) / tensor if gathered else 0.0
        self.head = config.vocab_size / tensor * hidden
        # What the decode loop reads on such a mesh (generate.for_decoding).
        size = sum(leaf.size for leaf in jax.tree.leaves(model.params))
        self.decoding_copy = self.size * size / tensor if gathered else 0.0

    def rows(self, count: int) -> float:
        """Returns the rows of a batch on one device: all of them where the mesh does not divide their number."""
        parts = self.mesh.shape["data"] * self.mesh.shape["fsdp"]
        return count / parts if count % parts == 0 else float(count)

    def scores(self, rows: float, queries: int, keys: int) -> float:
        """Returns the bytes of one float32 copy of attention's scores."""
        return 4 * rows * self.config.num_heads / self.mesh.shape["tensor"] * queries * keys

    def implementation(self) -> str:
        """Returns the implementation of attention over whole rows, a key of SCORES."""
        if _LIMIT.get() is None or self.config.kernels in SCORES:
            return dispatch.attention_implementation(self.config.kernels, self.config.dtype, self.config.head_dim)
        return "cudnn" if self.config.compute_dtype in dispatch.CUDNN_DTYPES else "portable"  # of accelerators

    def logits(self, rows: float, positions: int) -> tuple[float, int]:
        """Returns the bytes of the float32 logits that exist at once, and their copies: two where they are all."""
        total = rows * positions * self.config.vocab_size / self.mesh.shape["tensor"]
        return 4 * min(total, logprobs.CHUNK_LOGITS), 2 if total <= logprobs.CHUNK_LOGITS else 1

    def forward(self, count: int, length: int, positions: int = 0, implementation: str = "") -> float:
        """Returns the bytes of a pass over `count` rows of `length` tokens, `positions` of which need logits.

        Args:
          implementation: of attention, where it is not that of whole rows.
        """
        rows = self.rows(count)
        scores = SCORES[implementation or self.implementation()].forward * self.scores(rows, length, length)
        logits, copies = self.logits(rows, positions)
        return max(self._block(rows * length, scores), copies * logits)

    def unfused(self, implementation: str) -> str:
        """Returns the implementation of attention where fused kernels give way to this one."""
        return implementation if self.implementation() in dispatch.FUSED else self.implementation()

    def _block(self, tokens: float, scores: float) -> float:
        return max(tokens * self.mlp, tokens * self.attention + scores) + self.weights

    def backward(self, count: int, length: int, positions: int = 0) -> float:
        """Returns the bytes of a pass with its gradient, without the gradients of parameters."""
        rows, remat, copies = self.rows(count), self.config.remat, SCORES[self.implementation()]
        tokens, scores = rows * length, self.scores(rows, length, length)
        saved = tokens * {"none": self.all, "full": self.input, "dots": self.input + self.outputs}[remat]
        block = tokens * self.gradients + copies.backward * scores + 2 * self.weights
        if remat == "none":
            saved += copies.saved * scores
        else:  # a block is computed again
            block += tokens * self.inner + copies.saved * scores
        logits, num_logits = self.logits(rows, positions)
        head = num_logits * logits + (4 * self.head if positions else 0.0)
        if self.config.num_layers <= UNROLL:  # the blocks are not in a loop, which would end before the head begins
            block += logits
        return self.config.num_layers * saved + max(block, head)

    def generation(self, count: int, width: int, new: int) -> tuple[float, float]:
        """Returns the bytes of keys and values, and of all else, while `count` prompts up to `width` are continued."""
        width = batches.bucket_length(width)
        token = 2 * self.config.num_layers * self.config.num_kv_heads * self.config.head_dim * self.size
        token *= self.rows(count) / self.mesh.shape["tensor"]
        # The cache grows by copies, keys before values: of the one before between a half and all exists with the last.
        segments = max(1, min(generate.MAX_SEGMENTS, new // generate.MIN_SEGMENT))
        growth = 0.75 * token * (width + new * (segments - 1) // segments) if segments > 1 else 0.0
        prefill = self.forward(count, width, 0, self.unfused("portable"))  # prompts are left-padded
        prefill -= token * (new - new // segments)  # the first cache is short
        sampling = 3 * 4 * self.rows(count) * self.config.vocab_size
        return token * (width + new), max(prefill, growth, sampling)


def largest_fitting(total: int, fits: Callable[[int], bool]) -> int:
    """Returns the largest size that divides `total` and fits, or 1."""
    return next((size for size in range(total, 0, -1) if total % size == 0 and fits(size)), 1)


def plan_training(settings: Mapping[str, Any], mesh: parallel.AnyMesh, kind: str = "causal") -> Plan:
    """Returns the plan of a task that trains one model.

    Args:
      settings: of the task, by name; with a fit.microbatch_size of 0 the largest that fits is chosen.
      kind: as in `registry.build`.
    """
    model = abstract_model(settings["model"], mesh, kind, **settings["precision"])
    length, fit = settings["data"]["max_length"], settings["fit"]
    tx = make_optimizer(OptimizerSettings.from_ratio(1, **settings["optimizer"]), trainable(model.params))
    parameters, moments = shard_bytes(model.params), shard_bytes(states.abstract(model.params, tx).opt_state)
    activations, positions = Activations(model), length if kind == "causal" else 0

    def plan(size: int) -> Plan:
        sums = 0.0 if size == fit["batch_size"] else shard_bytes(model.params, "float32")  # over micro-batches
        work = activations.backward(size, length, positions)
        lower = "lower fit.microbatch_size, or give the mesh more devices"
        return Plan([Phase("train", parameters, moments, parameters + sums, 0.0, work, lower)], device_bytes(), size)

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
    parameters = shard_bytes(model.params) + activations.decoding_copy
    return Plan([Phase("generate", parameters, 0.0, 0.0, cache, work, "lower batch_size")], device_bytes())


def plan_ppo(settings: Mapping[str, Any], mesh: parallel.AnyMesh) -> Plan:
    """Returns the plan of PPO.

    Args:
      settings: of the task, by name; where ppo.decode_batch_size or ppo.microbatch_size is 0, the largest that fits is
        chosen.
    """
    ppo, read, precision = settings["ppo"], settings["reader"], settings["precision"]
    policy = abstract_model(settings["policy"], mesh, **precision)
    reference = abstract_model(settings["policy"], mesh, **_inference(precision))
    forecaster = (
        abstract_model(read["forecaster"], mesh, "scalar", **_inference(precision)) if read["forecaster"] else None
    )
    extractor = abstract_model(read["extractor"], mesh, **_inference(precision)) if read["extractor"] else None
    trained = {"policy": policy}
    if str(ppo["baseline"]).startswith("critic"):
        trained["critic"] = abstract_model(settings["critic"], mesh, "scalar", **precision)

    params = {name: model.params for name, model in trained.items()}
    tx = make_optimizer(OptimizerSettings.from_ratio(1, **settings["optimizer"]), trainable(params))
    moments, gradients = shard_bytes(states.abstract(params, tx).opt_state), shard_bytes(params, "float32")
    frozen = shard_bytes([m.params for m in (reference, forecaster, extractor) if m is not None])
    length, response = ppo["query_length"] + ppo["response_length"], ppo["response_length"]

    def inference(name: str, lower: str, work: float, *, cache: float = 0.0, copy: float = 0.0) -> Phase:
        return Phase(name, shard_bytes(params) + frozen + copy, moments, 0.0, cache, work, lower)

    def training(name: str, lower: str, work: float) -> Phase:
        parameters = shard_bytes(params) + (0.0 if ppo["frozen_on_host"] else frozen)
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
            exact = abstract_model(settings["policy"], mesh, **{**precision, "compute_dtype": "float32"})
            work = Activations(exact).forward(count, length, response)
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


def _inference(precision: Mapping[str, str]) -> dict[str, str]:
    """Returns the precision of a model that is not trained."""
    return {**precision, "param_dtype": precision["compute_dtype"]}
