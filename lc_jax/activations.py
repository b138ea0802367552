"""Memory of activations on each device, from closed formulas, and how much memory a device has.

They are counted for each token, after Korthikanti et al. (2022, "Reducing activation recomputation in large transformer
models"), but for our blocks and with XLA's work space.
"""

from __future__ import annotations

import contextlib
import contextvars
import math
import os
from collections.abc import Iterator
from typing import NamedTuple

import jax

from lc_jax import parallel
from lc_jax.data import batches
from lc_jax.inference import generate
from lc_jax.kernels import dispatch, logprobs
from lc_jax.models.decoding import UNROLL, is_per_layer
from lc_jax.models.params import model_leaves
from lc_jax.models.transformer import Model

_LIMIT: contextvars.ContextVar[float | None] = contextvars.ContextVar("limit", default=None)


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


class Copies(NamedTuple):
    """Numbers of float32 copies of a layer's attention scores that XLA holds at once."""

    forward: float
    backward: float
    saved: float  # by each layer for the backward pass


# Counted in XLA's figures of the programs; fused kernels hold none.
SCORES = {"portable": Copies(3.0, 4.0, 2.0), "blocked": Copies(0.7, 2.5, 0.0)}
SCORES |= dict.fromkeys(dispatch.FUSED, Copies(0.0, 0.0, 0.0))


def noise_rows(microbatch_size: int, mesh: parallel.AnyMesh | None = None) -> int:
    """Returns how many episodes of a micro-batch `rounding_noise` takes: 16 on each device, or all."""
    rows = parallel.rows_per_device(microbatch_size, mesh)
    return microbatch_size // rows * min(rows, 16)


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
        leaves = model_leaves(model)
        matrices = [leaf.shape[1:] for path, leaf in leaves if path[-1] == "kernel" and leaf.ndim == 3]
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
        # Of a model with adapters the head has no gradient. Adapters save their inner activations, and with "dots" what
        # they add to each matrix's output.
        self.trains_head, self.parts, self.products = model.frozen is None, 0.0, 0.0
        if config.lora is not None:
            adapters = [leaf.shape for path, leaf in leaves if path[-1] == "lora_b"]
            self.all += self.size * sum(rank for _, rank, _ in adapters)
            self.outputs += self.size * sum(rank + size / tensor for _, rank, size in adapters)
            # Before the parts of an output, by matrix and by adapter, are added up; of a gradient twice as much.
            self.parts = self.size * (inner + 2 * hidden)
            if config.lora.int8:  # products before their scale, in the backward pass; a matrix converted from 8 bits
                self.products = self.size * (inner + hidden)
                self.weights = max(self.weights, self.size * max(map(math.prod, matrices)) / tensor)
        # What the decode loop reads on such a mesh (generate.for_decoding).
        size = sum(leaf.size * min(self.size, leaf.dtype.itemsize) for _, leaf in leaves)
        self.decoding_copy = size / tensor if gathered else 0.0
        # The layers apart, which it reads in place of these (models/decoding.py); accelerators have scans.
        self.apart = config.num_layers <= UNROLL if _LIMIT.get() is not None else is_per_layer(config)
        size = sum(x.size * min(self.size, x.dtype.itemsize) for path, x in leaves if "layers" in path)
        self.layer_copies = size / tensor if self.apart else 0.0

    def rows(self, count: int) -> float:
        """Returns the rows of a batch on one device."""
        return float(parallel.rows_per_device(count, self.mesh))

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
        return max(tokens * (self.mlp + self.parts), tokens * self.attention + scores) + self.weights

    def backward(self, count: int, length: int, positions: int = 0) -> float:
        """Returns the bytes of a pass with its gradient, without the gradients of parameters."""
        rows, remat, copies = self.rows(count), self.config.remat, SCORES[self.implementation()]
        tokens, scores = rows * length, self.scores(rows, length, length)
        saved = tokens * {"none": self.all, "full": self.input, "dots": self.input + self.outputs}[remat]
        block = tokens * self.gradients + copies.backward * scores + 2 * self.weights
        if remat == "none":
            saved += copies.saved * scores
        else:  # a block is computed again
            block += tokens * (self.inner + 2 * self.parts + self.products) + copies.saved * scores
        logits, num_logits = self.logits(rows, positions)
        head = num_logits * logits + (4 * self.head if positions and self.trains_head else 0.0)
        if self.config.num_layers <= UNROLL:  # the blocks are not in a loop, which would end before the head begins
            block += logits
        return self.config.num_layers * saved + max(block, head)

    def generation(self, count: int, width: int, new: int) -> tuple[float, float]:
        """Returns the bytes of keys and values, and of all else, while `count` prompts up to `width` are continued."""
        width = batches.bucket_length(width)
        token = 2 * self.config.num_layers * self.config.num_kv_heads * self.config.head_dim * self.size
        token *= self.rows(count) / self.mesh.shape["tensor"]
        # The cache grows by copies, keys before values: of the one before between a half and all exists with the last.
        # Where each layer has its own, they grow one after the other.
        segments = max(1, min(generate.MAX_SEGMENTS, new // generate.MIN_SEGMENT))
        growth = 0.75 * token * (width + new * (segments - 1) // segments) if segments > 1 else 0.0
        growth /= self.config.num_layers if self.apart else 1
        prefill = self.forward(count, width, 0, self.unfused("portable"))  # prompts are left-padded
        prefill -= token * (new - new // segments)  # the first cache is short
        sampling = 3 * 4 * self.rows(count) * self.config.vocab_size
        return token * (width + new), self.layer_copies + max(prefill, growth, sampling)
