"""How much memory a program will take on each device, from its traced form: nothing is compiled and nothing allocated.

A program is walked in order with the arrays that are alive at each point; what XLA fuses away (element-wise results that
are read once) takes no room, and an array that dies gives its room to one of the same shape. Each array is divided over
the mesh as its parameter or activation is.
"""

from __future__ import annotations

import dataclasses
import math
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Self

import jax
import jax.numpy as jnp
from jax.extend import core

from lc_jax.models.transformer import Model

GB = 1e9
# Results that XLA computes where they are read.
_FUSED = frozenset(
    "add sub mul div neg exp log log1p expm1 tanh logistic rsqrt sqrt pow integer_pow square max min abs sign select_n "
    "convert_element_type and or not xor eq ne lt le gt ge is_finite stop_gradient clamp copy sin cos add_any floor "
    "reshape squeeze expand_dims broadcast_in_dim rem pjit_constant sharding_constraint".split()
)
_FREE = frozenset(("iota", "broadcast_in_dim", "eq", "lt", "le", "gt", "ge", "and", "or", "not"))  # made again at will
_READS = _FUSED | {"reduce_sum", "reduce_max", "reduce_min", "reduce_and", "reduce_or", "argmax", "gather"}

Bytes = Callable[[Any], float]  # of an array's shape and dtype on one device


def shard_bytes(tree: Any) -> int:
    """Bytes on one device of arrays, abstract or not, by their shardings."""

    def local(x: Any) -> int:
        sharding = getattr(x, "sharding", None)
        shape = x.shape if sharding is None else sharding.shard_shape(x.shape)
        return math.prod(shape) * jnp.dtype(x.dtype).itemsize

    return sum(map(local, jax.tree.leaves(tree)))


def divide(mesh: jax.sharding.Mesh, models: Sequence[Model]) -> Bytes:
    """How arrays of programs over these models lie on the mesh: as a parameter of that shape, or as an activation."""
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
        over = parts.get(shape) or (1 if len(shape) < 2 else rows if shape[-1] in widths else mesh.size)
        return size / over

    return local


def peak(jaxpr: core.Jaxpr, local: Bytes, donated: int = 0) -> float:
    """The most bytes that the arrays which a traced program makes take at once, its results included.

    The first `donated` inputs give their room to others once they have been read for the last time.
    """
    life = _Life.of(jaxpr)
    room = {var: 0.0 if var in life.fused else local(var.aval) for eqn in jaxpr.eqns for var in eqn.outvars}
    room |= {var: local(var.aval) for var in jaxpr.invars[:donated]}
    given = sum(room[var] for var in jaxpr.invars[:donated])
    alive = most = given
    for number, eqn in enumerate(jaxpr.eqns):
        made, dying = sum(room[var] for var in eqn.outvars), [v for v in life.ends.get(number, ()) if v in room]
        freed = sum(room[var] for var in dying)
        inner = max((peak(sub, local) for sub in _bodies(eqn)), default=0.0)
        loop = eqn.primitive.name in ("scan", "while")
        in_place = loop or eqn.primitive.name in _FUSED or eqn.primitive.name == "dynamic_update_slice"
        most = max(most, alive + (made + inner if loop else max(made, inner)) - (min(made, freed) if in_place else 0.0))
        alive += made - freed
    return most - given


def _bodies(eqn: core.JaxprEqn) -> Iterator[core.Jaxpr]:
    """The programs inside an operation: of a loop, a condition, a call."""
    for value in eqn.params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, core.ClosedJaxpr | core.Jaxpr):
                yield item.jaxpr if isinstance(item, core.ClosedJaxpr) else item


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
                once = len(readers.get(var, ())) == 1 and readers[var][0] in _READS
                if last.setdefault(var, number) < end and ((name in _FUSED and once) or name in _FREE):
                    fused.add(var)
                    last |= {v: max(last[v], last[var]) for v in eqn.invars if isinstance(v, core.Var)}
        ends: dict[int, list[core.Var]] = {}
        for var, number in last.items():
            ends.setdefault(number, []).append(var)
        return cls(ends, fused)
