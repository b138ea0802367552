"""How much memory a program will take on each device, from its traced form: nothing is compiled and nothing allocated.

A program is walked in order with the arrays that are alive at each point, each kept for one operation longer than it is
read, as XLA runs operations side by side. What XLA fuses away takes no room: element-wise results that are read once,
and arrays times a number. Each array is divided over the mesh as its parameter or activation is.

Against compiled.memory_analysis() of a CPU the totals are within 11 % at 7B (tests/test_plan.py), but for programs with
bfloat16 parameters that multiply matrices: of those that compiler keeps a float32 copy of all layers, and the plan is
up to a third lower. The miniature's are within 16 %, but 32 % too low where the forecaster reads; on eight devices
within 21 %, but 35 % too high for the critic's gradients (measured, not tested).
"""

from __future__ import annotations

import contextlib
import contextvars
import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
import numpy as np
from absl import logging
from jax.extend import core

from lc_jax import parallel
from lc_jax.models import folders, registry
from lc_jax.models.transformer import Model, trainable
from lc_jax.training import loop
from lc_jax.training import state as states
from lc_jax.training.optimizer import OptimizerSettings, make_optimizer

GB = 1e9
SMALLER_STATE = (
    'set optimizer.kind="adamw_int8_master" or "adamw_int8" with precision.param_dtype="bfloat16", or give the mesh '
    "more devices"
)
_LIMIT: contextvars.ContextVar[float | None] = contextvars.ContextVar("limit", default=None)
# Results that XLA computes where they are read, and those that it makes again for each reader.
_FREE = {"iota", "broadcast_in_dim", "eq", "ne", "lt", "le", "gt", "ge", "and", "or", "not", "is_finite"}
_FUSED = _FREE | {
    "add",
    "add_any",
    "sub",
    "mul",
    "div",
    "neg",
    "exp",
    "log",
    "log1p",
    "expm1",
    "tanh",
    "logistic",
    "sign",
}
_FUSED |= {"rsqrt", "sqrt", "pow", "integer_pow", "square", "max", "min", "abs", "select_n", "convert_element_type"}
_FUSED |= {"clamp", "copy", "sin", "cos", "floor", "rem", "xor", "reshape", "squeeze", "sharding_constraint"}
_FUSED |= {"shift_right_logical", "bitcast_convert_type"}
_READS = _FUSED | {"reduce_sum", "reduce_max", "reduce_min", "reduce_and", "reduce_or", "argmax", "gather"}

Bytes = Callable[[Any], float]  # of an array's shape and dtype on one device


def shard_bytes(tree: Any) -> int:
    """Bytes on one device of arrays, abstract or not, by their shardings."""

    def local(x: Any) -> int:
        sharding = getattr(x, "sharding", None)
        shape = x.shape if sharding is None else sharding.shard_shape(x.shape)
        return math.prod(shape) * jnp.dtype(x.dtype).itemsize

    return sum(map(local, jax.tree.leaves(tree)))


def divide(models: Sequence[Model]) -> Bytes:
    """How arrays of programs over these models lie on their mesh: as a parameter of that shape, or as an activation."""
    mesh = jax.tree.leaves(models[0].params)[0].sharding.mesh
    parts: dict[tuple[int, ...], float] = {}
    for leaf in jax.tree.leaves([model.params for model in models]):
        share = math.prod(leaf.shape) / math.prod(leaf.sharding.shard_shape(leaf.shape))
        parts |= {leaf.shape: share, leaf.shape[1:]: share} if leaf.ndim == 3 else {leaf.shape: share}
    widths = {model.config.hidden_size for model in models}
    rows = mesh.shape["data"] * mesh.shape["fsdp"]

    def local(aval: Any) -> float:
        shape = tuple(getattr(aval, "shape", ()))
        if not hasattr(aval, "dtype") or jnp.issubdtype(aval.dtype, jax.dtypes.extended):
            return 0.0
        size = float(math.prod(shape)) * aval.dtype.itemsize
        residual = shape[-1:] and shape[-1] in widths and len(shape) <= 4  # whole on the tensor axis
        return size / (parts.get(shape) or (1 if len(shape) < 2 else rows if residual else mesh.size))

    return local


def peak(traced: jax.stages.Traced, local: Bytes, donated: Any = ()) -> float:
    """The most bytes that the arrays which a traced program makes take at once on a device, its results included.

    Args:
      donated: the arguments, from the first on, that the program may overwrite.
    """
    jaxpr = traced.jaxpr.jaxpr
    return _peak(jaxpr, local, jaxpr.invars[: len(jax.tree.leaves(donated))])


def _peak(jaxpr: core.Jaxpr, local: Bytes, owned: Sequence[core.Var]) -> float:
    life = _Life.of(jaxpr)
    room = {var: 0.0 if var in life.fused else local(var.aval) for eqn in jaxpr.eqns for var in eqn.outvars}
    room |= {var: local(var.aval) for var in owned}
    given = sum(room[var] for var in owned)
    alive = most = given
    held = 0.0  # by arrays whose last reader was the operation before
    for number, eqn in enumerate(jaxpr.eqns):
        made, dying = sum(room[var] for var in eqn.outvars), [v for v in life.ends.get(number, ()) if v in room]
        freed = sum(room[var] for var in dying)
        inner = max((_peak(body, local, carry) for body, carry in _bodies(eqn, dying)), default=0.0)
        name = eqn.primitive.name
        in_place = name in ("scan", "while", "cond", "dynamic_update_slice")
        overwritten = min(made, freed) if in_place else 0.0
        if name == "cond":  # made inside
            work = max(inner, made - overwritten)
        else:
            work = (made + inner if name in ("scan", "while") else max(made, inner)) - overwritten
        most = max(most, alive + work)
        alive += made - held
        alive -= freed if in_place else 0.0
        held = 0.0 if in_place else freed
    return most - given


def _bodies(eqn: core.JaxprEqn, dying: Sequence[core.Var]) -> Iterator[tuple[core.Jaxpr, Sequence[core.Var]]]:
    """The programs inside an operation (loop, branch, call) with the arguments that they may overwrite: what a loop
    carries, and of a branch's those that nobody reads after it."""
    constants = {"scan": eqn.params.get("num_consts", 0), "while": eqn.params.get("body_nconsts", 0)}
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if not isinstance(item, core.ClosedJaxpr | core.Jaxpr):
                continue
            body = item.jaxpr if isinstance(item, core.ClosedJaxpr) else item
            if eqn.primitive.name == "cond":
                yield body, [own for own, var in zip(body.invars, eqn.invars[1:], strict=True) if var in dying]
                continue
            first = constants.get(eqn.primitive.name, len(body.invars))
            yield body, body.invars[first : first + eqn.params.get("num_carry", len(body.invars))]


@dataclasses.dataclass
class _Life:
    """When arrays are read for the last time."""

    ends: dict[int, list[core.Var]]  # number of an operation -> arrays that die with it
    fused: set[core.Var]  # results that take no room; what they are made of lives as long as they do

    @classmethod
    def of(cls, jaxpr: core.Jaxpr) -> Self:
        """Of each array in a program."""
        readers: dict[core.Var, list[str]] = {}
        last: dict[core.Var, int] = {}
        for number, eqn in enumerate(jaxpr.eqns):
            for var in (v for v in eqn.invars if isinstance(v, core.Var)):
                readers.setdefault(var, []).append(eqn.primitive.name)
                last[var] = number
        end = len(jaxpr.eqns)
        last |= {var: end for var in jaxpr.outvars if isinstance(var, core.Var)}
        fused = set()
        for number, eqn in reversed(list(enumerate(jaxpr.eqns))):
            name = eqn.primitive.name
            for var in eqn.outvars:
                read = readers.get(var, ())
                # By a number: cheap to make again.
                scaled = name == "mul" and any(not getattr(v.aval, "shape", None) for v in eqn.invars)
                fusible = name in _FUSED and (len(read) == 1 or scaled) and all(reader in _READS for reader in read)
                if last.setdefault(var, number) < end and (fusible or name in _FREE):
                    fused.add(var)
                    last |= {v: max(last[v], last[var]) for v in eqn.invars if isinstance(v, core.Var)}
        ends: dict[int, list[core.Var]] = {}
        for var, number in last.items():
            ends.setdefault(number, []).append(var)
        return cls(ends, fused)


@dataclasses.dataclass(frozen=True)
class Phase:
    """What one phase of a run keeps on each device, bytes; `lower` names the setting that makes it smaller."""

    name: str
    parameters: float
    moments: float
    gradients: float
    cache: float  # keys and values of generation
    activations: float  # everything else that the phase's program makes
    lower: str

    @property
    def state(self) -> float:
        """What no batch size makes smaller."""
        return self.parameters + self.moments + self.gradients

    @property
    def total(self) -> float:
        """All of it."""
        return self.state + self.cache + self.activations


@dataclasses.dataclass(frozen=True)
class Plan:
    """The phases of a run against the memory of a device."""

    phases: Sequence[Phase]
    limit: float  # bytes

    @property
    def fits(self) -> bool:
        """Whether every phase does."""
        return all(phase.total <= self.limit for phase in self.phases)

    def __str__(self) -> str:
        kinds = ("parameters", "moments", "gradients", "cache", "activations", "total")
        lines = [f"{'GB on each device':20s}" + "".join(f"{kind:>12s}" for kind in kinds)]
        for phase in self.phases:
            lines.append(f"{phase.name:20s}" + "".join(f"{getattr(phase, kind) / GB:12.3f}" for kind in kinds))
        over = [phase for phase in self.phases if phase.total > self.limit]
        remedies = [SMALLER_STATE if phase.state > self.limit else phase.lower for phase in over]
        lines += [
            f"{phase.name} exceeds the device's {self.limit / GB:.1f} GB: {remedy}."
            for phase, remedy in zip(over, remedies, strict=True)
        ]
        return "\n".join(lines if over else [*lines, f"Fits into {self.limit / GB:.1f} GB."])

    def report(self) -> None:
        """Logs the table, as a warning where it does not fit."""
        logging.log(logging.INFO if self.fits else logging.WARNING, "Memory:\n%s", self)


@contextlib.contextmanager
def for_devices_of(limit: float) -> Iterator[None]:
    """Makes plans inside be for devices with room for `limit` bytes of arrays, in place of those of this machine."""
    token = _LIMIT.set(limit)
    try:
        yield
    finally:
        _LIMIT.reset(token)


def device_bytes() -> float:
    """Memory of one device that arrays may take; of a CPU its share of the machine's."""
    if (limit := _LIMIT.get()) is not None:
        return limit
    stats = jax.local_devices()[0].memory_stats() or {}
    machine = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return float(stats.get("bytes_limit") or machine / jax.local_device_count())


def outline(name: str, mesh: parallel.AnyMesh, kind: str = "causal", **precision: str) -> Model:
    """The model of a checkpoint or of a preset's name as shapes only, laid out over the mesh."""
    try:
        config = registry.from_preset(name, **precision)
    except ValueError:
        config = folders.config_of(name, **precision)[0]
    return registry.abstract_model(config, kind, mesh)


def most(total: int, plan: Callable[[int], Plan]) -> tuple[int, Plan]:
    """The largest size that divides `total` and whose plan fits, and the plan; size 1 where none does."""
    sizes = [n for n in range(total, 0, -1) if total % n == 0]
    whole, smallest = plan(total), None
    for size in sizes[1:]:
        if whole.fits:
            break
        smallest = smallest or plan(1)
        total, whole = (size, plan(size)) if smallest.fits else (1, smallest)
        if not smallest.fits:
            break
    return total, whole


def supervised(
    model: Model,
    loss_fn: loop.LossFn,
    longest: Mapping[str, np.ndarray],
    settings: loop.FitSettings,
    optimizer: OptimizerSettings,
) -> tuple[loop.FitSettings, Plan]:
    """The plan of `fit`, and its settings; with a microbatch_size of 0 the largest that fits is taken.

    Args:
      model: as `outline` gives it.
      longest: a batch of one row as wide as they come.
    """
    tx = make_optimizer(optimizer, trainable(model.params))
    state, local = states.abstract(model.params, tx), divide([model])
    parameters, moments = shard_bytes(model.params), shard_bytes(state.opt_state)
    lower = "lower fit.microbatch_size, or give the mesh more devices"

    def plan(size: int) -> Plan:
        count = settings.batch_size // size
        batch = {k: jax.ShapeDtypeStruct((size * count, *v.shape[1:]), v.dtype) for k, v in longest.items()}
        traced = loop.train_step.trace(
            state, model.with_params(None), batch, loss_fn=loss_fn, tx=tx, microbatches=count
        )
        work = peak(traced, local, donated=state)
        return Plan([Phase("train", parameters, moments, parameters, 0.0, work - parameters, lower)], device_bytes())

    size = settings.microbatch_size
    size, whole = (size, plan(size)) if size else most(settings.batch_size, plan)
    return dataclasses.replace(settings, microbatch_size=size), whole


def of_training(
    settings: Mapping[str, Any],
    mesh: parallel.AnyMesh,
    loss_fn: loop.LossFn,
    longest: Mapping[str, np.ndarray],
    kind: str = "causal",
) -> tuple[int, Plan]:
    """The microbatch size of a task that trains one model, and its plan.

    Args:
      settings: of the task, by name.
      longest, kind: as in `supervised` and `outline`.
    """
    fit, plan = supervised(
        outline(settings["model"], mesh, kind, **settings["precision"]),
        loss_fn,
        longest,
        loop.FitSettings(**settings["fit"], seed=settings["seed"]),
        OptimizerSettings.from_ratio(1, **settings["optimizer"]),
    )
    return fit.microbatch_size, plan
