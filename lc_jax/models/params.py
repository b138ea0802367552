"""The contract between a checkpoint folder and a model's parameters: one list of ParamSpec.

Loading, saving, load reports, classification heads and shardings all go through it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from lc_jax import parallel
from lc_jax.models.layout import BACKBONE, HEAD
from lc_jax.models.linear import ADAPTERS
from lc_jax.models.registry import family_of, kind_of, named_leaves
from lc_jax.models.tensors import TensorSpec
from lc_jax.models.transformer import Model

# Names of an adapter's tensors in a folder of PEFT, which have the module of their matrix in the middle.
PEFT = {"lora_a": "base_model.model.{}.lora_A.weight", "lora_b": "base_model.model.{}.lora_B.weight"}


@dataclasses.dataclass(frozen=True)
class ParamSpec:
    """One parameter: its path in the model, its tensors in a Hugging Face folder, its layout over the devices."""

    path: tuple[str, ...]  # in the nnx state
    hf_keys: tuple[str, ...]  # one tensor, or one per layer
    rows: tuple[int, int] | None  # its first row in tensors that hold several parameters, and all their rows
    stacked: bool  # the first dimension of the parameter is the layer
    transposed: bool  # [in, out] in the model, [out, in] in the folder
    shape: tuple[int, ...]
    dtype: str
    sharding: jax.sharding.Sharding | None  # None: not on a mesh

    def describes(self, array: jax.Array) -> bool:
        """Returns whether an array has this shape, dtype and layout."""
        return (array.shape, str(array.dtype), array.sharding) == (self.shape, self.dtype, self.sharding)

    @property
    def is_adapter(self) -> bool:
        """Returns whether it belongs to a low-rank adapter."""
        return self.path[-1] in ADAPTERS

    @property
    def is_scale(self) -> bool:
        """Returns whether it is the scale of a matrix in 8 bits, which is computed from the matrix's tensor."""
        return self.path[-1] == "kernel_scale"

    @property
    def is_vocabulary(self) -> bool:
        """Returns whether the rows of the stored tensor are tokens: the embedding and the language-model head."""
        return self.path[-1] == "embedding" or self.path[-2:] == ("head", "kernel")

    @property
    def hf_shape(self) -> tuple[int, ...]:
        """Shape of each of its tensors in a folder."""
        shape = self.shape[1:] if self.stacked else self.shape
        shape = shape[::-1] if self.transposed else shape
        return shape if self.rows is None else (self.rows[1], *shape[1:])

    def tensors(self, array: jax.Array) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (key, its values) of each of its tensors as a folder holds them, one layer at a time on the host."""
        layers = (array[i] for i in range(len(array))) if self.stacked else [array]
        for key, layer in zip(self.hf_keys, layers, strict=True):
            value = parallel.to_host(layer)
            yield key, np.ascontiguousarray(value.T if self.transposed else value)


NamedArrays = Iterable[tuple[ParamSpec, jax.Array]]  # parameters in the order of `param_specs`, drawn one at a time


def param_specs(model: Model) -> list[ParamSpec]:
    """Returns every parameter of a model, abstract or not, in the order of its tree."""
    family, num_layers, is_scalar = family_of(model.config), model.config.num_layers, kind_of(model) == "scalar"
    keys, joint, specs = family.KEYS, getattr(family, "JOINT", {}), []
    leaves = model_leaves(model)
    sizes = {".".join(path[1:] if is_scalar else path): leaf.shape[-1] for path, leaf in leaves if leaf.ndim}
    for path, leaf in leaves:
        name = ".".join(path[1:] if is_scalar else path)
        if path[0] == "reward_head":
            key = HEAD + path[1]
        elif path[-1] in ADAPTERS:
            key = PEFT[path[-1]].format(keys[name.replace(path[-1], "kernel")].removesuffix(".weight"))
        else:
            name = name.removesuffix("_scale")  # of a matrix in 8 bits, whose scale follows from its tensor
            key = BACKBONE + keys[name] if is_scalar else keys[name]
        stacked, rows = "{}" in key, None
        if names := joint.get(key.removeprefix(BACKBONE)):
            rows = sum(sizes[n] for n in names[: names.index(name)]), sum(sizes[n] for n in names)
        specs.append(
            ParamSpec(
                path=path,
                hf_keys=tuple(key.format(layer) for layer in range(num_layers)) if stacked else (key,),
                rows=rows,
                stacked=stacked,
                transposed=path[-1] in ("kernel", *ADAPTERS),
                shape=tuple(leaf.shape),
                dtype=str(leaf.dtype),
                sharding=leaf.sharding,
            )
        )
    return specs


def tensor_specs(model: Model, dtype: str) -> list[TensorSpec]:
    """Returns key and shape of every tensor that a folder of the model holds, stored in `dtype`."""
    return tensors_of(param_specs(model), dtype)


def tensors_of(specs: Sequence[ParamSpec], dtype: str) -> list[TensorSpec]:
    """Returns key and shape of the tensors of some parameters; one of several parameters has the place of the last."""
    last = {key: spec.path for spec in specs for key in spec.hf_keys}
    return [TensorSpec(key, s.hf_shape, dtype) for s in specs for key in s.hf_keys if last[key] == s.path]


def stored_tensors(arrays: NamedArrays) -> Iterator[tuple[str, np.ndarray]]:
    """Yields (key, value) of every tensor that a folder holds, in the order of `tensors_of`.

    One tensor at a time is on the host, with those parts of others that wait for the parameters they are stored with.
    """
    parts: dict[str, list[tuple[int, np.ndarray]]] = {}
    for spec, array in arrays:
        for key, value in spec.tensors(array):
            if spec.rows is None:
                yield key, value
                continue
            waiting = parts.setdefault(key, [])
            waiting.append((spec.rows[0], value))
            if sum(len(part) for _, part in waiting) == spec.rows[1]:
                yield key, np.concatenate([part for _, part in sorted(parts.pop(key), key=lambda item: item[0])])


def named_arrays(model: Model) -> NamedArrays:
    """Yields the parameters of a model, each with its spec."""
    leaves = dict(model_leaves(model))
    return ((spec, leaves[spec.path]) for spec in param_specs(model))


def with_arrays(model: Model, arrays: Mapping[tuple[str, ...], Any]) -> Model:
    """Returns the model with other parameters, given by path."""
    leaves = [arrays[path] for path, _ in model_leaves(model)]
    return jax.tree.unflatten(jax.tree.structure(model), leaves)


def model_leaves(model: Model) -> list[tuple[tuple[str, ...], Any]]:
    """Returns (path, leaf) for every parameter of a model: first the trained ones, then the frozen ones."""
    return [leaf for state in model.states() for leaf in named_leaves(state)]
