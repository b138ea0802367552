"""Models for the benchmarks: ours with random weights born on the device, the peer's with the same weights, and the
operations that any implementation must do.

Formulas count multiply-adds as two operations; d is hidden size, P the parameters of the blocks, V the vocabulary:
forward = 2 P tokens + 2 L d B T^2 (causal attention) + 2 V d (tokens whose logits are needed); training = 3 forwards.
"""

from __future__ import annotations

import dataclasses
import importlib.util
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import lc_jax
from benchmarks.report import Machine, Size
from lc_jax.models import folders, hf, registry
from lc_jax.models.config import Config
from lc_jax.models.transformer import Model

MINIATURE = Path(lc_jax.__file__).parent / "miniature" / "checkpoints" / "llama"


def config_of(size: Size, **precision: str) -> Config:
    """The shape of a size's model."""
    precision = size.precision | precision
    if size.model == "miniature":
        return folders.config_of(MINIATURE, **precision)[0]
    return registry.from_preset(size.model, **precision)


def with_layers(config: Config, layers: int) -> Config:
    """The same shape with fewer layers, so that it fits."""
    return dataclasses.replace(config, num_layers=min(layers, config.num_layers))


def random_model(config: Config, mesh: jax.sharding.Mesh, seed: int = 0, kind: str = "causal") -> Model:
    """A model whose weights are drawn on the device."""
    return registry.initialize(config, jax.random.key(seed), mesh, kind)


def random_tokens(config: Config, count: int, length: int, seed: int = 0) -> np.ndarray:
    """[count, length] int32 ids past the special ones."""
    return np.random.default_rng(seed).integers(8, config.vocab_size, (count, length)).astype(np.int32)


# --- the peer ---


def has(package: str) -> bool:
    """Returns whether a package of the peer is installed."""
    return importlib.util.find_spec(package) is not None


def torch_device() -> str | None:
    """The device of torch that is JAX's, or None where torch is not there for it."""
    if not has("torch"):
        return None
    import torch

    if jax.default_backend() == "cpu":
        return "cpu"
    return "cuda" if torch.cuda.is_available() else None


def synchronised(function: Callable[[], Any]) -> Callable[[], Any]:
    """`function` at its best: with the fastest number of threads, a GPU's queue waited for."""
    import torch

    threads = fastest_threads(function)

    def call() -> Any:
        torch.set_num_threads(threads)
        out = function()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return out

    return call


def fastest_threads(function: Callable[[], Any]) -> int:
    """One of torch's threads, or as many as there are cores: that with which `function` takes less time on a CPU.

    Where other work shares the cores, torch's threads wait for one another, and one alone is often faster.
    """
    import torch

    cores = torch.get_num_threads()
    if torch_device() != "cpu" or cores == 1:
        return cores
    function()  # sets things up
    seconds = {1: float("inf"), cores: float("inf")}
    for threads in (1, cores, 1, cores):
        torch.set_num_threads(threads)
        started = time.perf_counter()
        function()
        seconds[threads] = min(seconds[threads], time.perf_counter() - started)
    torch.set_num_threads(cores)
    return min(seconds, key=lambda threads: seconds[threads])


def to_torch(model: Model) -> Any:
    """The transformers model with the weights of `model`, in its dtype, or None without torch for this device."""
    device = torch_device()
    if device is None or not has("transformers"):
        return None
    import torch
    import transformers

    config = transformers.AutoConfig.for_model(**registry.config_to_hf(model.config))
    with torch.device(device):
        peer = transformers.AutoModelForCausalLM.from_config(config, dtype=getattr(torch, model.config.compute_dtype))
    tensors = {key: tensor(value) for key, value in hf.host_tensors(model)}
    missing, unexpected = peer.load_state_dict(tensors, strict=False)
    if unexpected or set(missing) - {"lm_head.weight"}:
        raise ValueError(f"transformers names other tensors: {missing} {unexpected}")
    peer.tie_weights()
    return peer


def tensor(value: np.ndarray) -> Any:
    """The same as torch has it."""
    import torch

    if value.dtype == jnp.bfloat16:
        return torch.from_numpy(value.view(np.int16).copy()).view(torch.bfloat16)
    return torch.from_numpy(value.copy())


# --- the floor ---


def block_params(config: Config) -> int:
    """Parameters of all blocks, without embedding and head."""
    params = registry.abstract_model(config).params
    return sum(leaf.size for path, leaf in registry.named_leaves(params) if path[0] == "layers")


def forward_flops(config: Config, batch: int, length: int, head_tokens: int) -> float:
    """Operations of one forward pass over [batch, length] tokens."""
    attention = 2.0 * config.num_layers * config.num_heads * config.head_dim * batch * length**2
    head = 2.0 * config.vocab_size * config.hidden_size * head_tokens
    return 2.0 * block_params(config) * batch * length + attention + head


def decode_floor(machine: Machine, config: Config, batch: int, prompt: int, response: int, common: int = 0) -> float:
    """Seconds of `response` steps for `batch` rows: weights and cache are read in each, and every row is computed.

    Args:
      common: tokens before all rows, whose keys and values are read once.
    """
    width, bytes_each = config.num_heads * config.head_dim, jnp.dtype(config.compute_dtype).itemsize
    weights = block_params(config) + config.vocab_size * config.hidden_size
    cache = 2 * config.num_layers * config.num_kv_heads * config.head_dim * bytes_each
    total = 0.0
    for slots in range(prompt, prompt + response):
        flops = batch * (2.0 * weights + 4.0 * config.num_layers * width * (common + slots))
        total += machine.floor(flops, float(weights * bytes_each + (common + batch * slots) * cache))
    return total
