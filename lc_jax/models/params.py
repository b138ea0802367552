"""The contract between a checkpoint folder and a model's parameters: one list of ParamSpec.

Loading, saving, load reports, classification heads and shardings all go through it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from lc_jax import parallel
from lc_jax.models.layout import BACKBONE, HEAD
from lc_jax.models.registry import family_of, kind_of, named_leaves
from lc_jax.models.tensors import TensorSpec
from lc_jax.models.transformer import Model


@dataclasses.dataclass(frozen=True)
class ParamSpec:
    """One parameter: its path in the model, its tensors in a Hugging Face folder, its layout over the devices."""

    path: tuple[str, ...]  # in the nnx state
    hf_keys: tuple[str, ...]  # one tensor, or one per layer
    stacked: bool  # the first dimension of the parameter is the layer
    transposed: bool  # [in, out] in the model, [out, in] in the folder
    shape: tuple[int, ...]
    dtype: str
    sharding: jax.sharding.Sharding | None  # None: not on a mesh

    @property
    def is_vocabulary(self) -> bool:
        """Returns whether the rows of the stored tensor are tokens: the embedding and the language-model head."""
        return self.path[-1] == "embedding" or self.path[-2:] == ("head", "kernel")

    @property
    def hf_shape(self) -> tuple[int, ...]:
        """Shape of each of its tensors in a folder."""
        shape = self.shape[1:] if self.stacked else self.shape
        return shape[::-1] if self.transposed else shape

    def tensors(self, array: jax.Array) -> Iterator[tuple[str, np.ndarray]]:
        """Yields (key, value) of each of its tensors as a folder holds them; one layer at a time is on the host."""
        layers = (array[i] for i in range(len(array))) if self.stacked else [array]
        for key, layer in zip(self.hf_keys, layers, strict=True):
            value = parallel.to_host(layer)
            yield key, np.ascontiguousarray(value.T if self.transposed else value)


NamedArrays = Iterable[tuple[ParamSpec, jax.Array]]  # parameters in the order of `param_specs`, drawn one at a time


def param_specs(model: Model) -> list[ParamSpec]:
    """Returns every parameter of a model, abstract or not, in the order of its tree."""
    keys, num_layers, is_scalar = family_of(model.config).KEYS, model.config.num_layers, kind_of(model) == "scalar"
    specs = []
    for path, leaf in named_leaves(model.params):
        if path[0] == "reward_head":
            key = HEAD + path[1]
        else:
            key = BACKBONE + keys[".".join(path[1:])] if is_scalar else keys[".".join(path)]
        stacked = "{}" in key
        specs.append(
            ParamSpec(
                path=path,
                hf_keys=tuple(key.format(layer) for layer in range(num_layers)) if stacked else (key,),
                stacked=stacked,
                transposed=path[-1] == "kernel",
                shape=tuple(leaf.shape),
                dtype=str(leaf.dtype),
                sharding=leaf.sharding,
            )
        )
    return specs


def tensor_specs(model: Model, dtype: str) -> list[TensorSpec]:
    """Returns key and shape of every tensor that a folder of the model holds, stored in `dtype`."""
    return [TensorSpec(key, spec.hf_shape, dtype) for spec in param_specs(model) for key in spec.hf_keys]


def named_arrays(model: Model) -> NamedArrays:
    """Yields the parameters of a model, each with its spec."""
    leaves = dict(named_leaves(model.params))
    return ((spec, leaves[spec.path]) for spec in param_specs(model))


def with_arrays(model: Model, arrays: Mapping[tuple[str, ...], Any]) -> Model:
    """Returns the model with other parameters, given by path."""
    paths = [path for path, _ in named_leaves(model.params)]
    leaves = [arrays[path] for path in paths]
    return model.with_params(jax.tree.unflatten(jax.tree.structure(model.params), leaves))
