"""The decoder of all families: embedding, stacked blocks in a scan, final norm, head, and generation over a cache.

What differs between families is a field of the config; a file such as llama.py maps config.json and keys to it.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int, Shaped

from lc_jax import parallel
from lc_jax.kernels import dispatch
from lc_jax.kernels.attention import KeysValues, RowMask, attention, decode_attention, prefill_attention
from lc_jax.kernels.bits import from_bits, to_bits
from lc_jax.kernels.logprobs import soften, token_logprobs
from lc_jax.kernels.matmul import product, product_by_columns
from lc_jax.models.block import Block, Norm, multiply
from lc_jax.models.cache import Cache, LayerCache
from lc_jax.models.config import REMAT, Config
from lc_jax.models.decoding import UNROLL, is_per_layer, layer_copies
from lc_jax.models.linear import ADAPTERS, Linear
from lc_jax.models.rope import angles, rotate

Window = Int[Array, ""] | int | None
NO_WINDOW = 2**31 - 1  # in the place of a window where other kinds of layers have one


class ByKind(NamedTuple):
    """Angles and window of one kind of layer."""

    cos: Float[Array, "B T R"]
    sin: Float[Array, "B T R"]
    window: Window


class CausalLM(nnx.Module):
    """A decoder with a language-model head."""

    def __init__(self, config: Config, key: jax.Array) -> None:
        embed_key, block_key, head_key = jax.random.split(key, 3)
        self.config = config
        shape = (config.vocab_size, config.hidden_size)
        table = config.initializer_range * jax.random.normal(embed_key, shape, jnp.float32)
        self.embedding = nnx.Param(table.astype(config.backbone_dtype), out_sharding=("vocab", "embed"))
        self.layers = Block(config, block_key)
        self.norm = Norm(config)
        shape = (config.hidden_size, config.vocab_size)
        self.head = None if config.tied_embeddings else Linear(head_key, shape, ("embed", "vocab"), config)

    def _embedding_matrix(self) -> Float[Array, "V D"]:
        return from_bits(self.embedding[...])

    def head_matrix(self) -> Float[Array, "D V"]:
        """Returns the matrix from hidden states to logits, in the compute dtype."""
        matrix = self._embedding_matrix().T if self.head is None else self.head.kernel[...]
        return matrix.astype(self.config.dtype)

    def logits(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Computes float32 logits."""
        hidden = multiply(hidden, 1 / self.config.logit_divisor)
        flat = hidden.reshape(-1, hidden.shape[-1])
        if self.head is None:
            flat = product_by_columns(flat, self._embedding_matrix().astype(self.config.dtype))
        else:
            flat = product(flat, self.head_matrix())
        return soften(flat.reshape(*hidden.shape[:-1], -1), self.config.logit_softcap)

    def logprobs(
        self, hidden: Float[Array, "B T D"], targets: Int[Array, "B T"], temperature: Float[Array, ""]
    ) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
        """Computes the log-probability of each target and the entropy at its position; see `token_logprobs`."""
        softcap = self.config.logit_softcap
        implementation = dispatch.logprobs_implementation(self.config.kernels, softcap)
        hidden = multiply(hidden, 1 / self.config.logit_divisor)
        return token_logprobs(hidden, self.head_matrix(), targets, temperature, implementation, softcap)

    def _embed(self, tokens: Int[Array, "B T"], table: Shaped[Array, "V D"]) -> Float[Array, "B T D"]:
        x = from_bits(jnp.take(table, tokens, axis=0)).astype(self.config.dtype)
        scale = self.config.embedding_scale
        return x if scale == 1 else x * jnp.asarray(scale, x.dtype)

    def _kinds(self) -> Int[Array, " L"] | None:
        """Returns the number of each layer's kind, which is scanned with its parameters; None: there is one kind."""
        return jnp.asarray(self.config.kind_of_layer) if len(self.config.kinds) > 1 else None

    def _by_kind(self, positions: Int[Array, "B T"], length: int) -> Callable[..., ByKind]:
        """Returns a function from the number of a kind to its angles and window, for positions below `length`."""
        config = self.config
        ropes = [kind.rope for kind in config.kinds]
        cos, sin = angles(ropes, config.rotary_dim, config.max_length, positions, length)
        windows = config.windows(length)
        if len(ropes) == 1:
            only = ByKind(cos, sin, None if windows is None else windows[0])
            return lambda kind: only
        sizes = None if windows is None else jnp.asarray([size or NO_WINDOW for size in windows])
        return lambda kind: ByKind(cos[kind], sin[kind], None if sizes is None else sizes[kind])

    def __call__(
        self,
        tokens: Int[Array, "B T"],
        lengths: Int[Array, " B"] | None = None,
        *,
        starts: Int[Array, " B"] | None = None,
        segment_ids: Int[Array, "B T"] | None = None,
        prefix: Cache | None = None,
    ) -> Float[Array, "B T D"]:
        """Computes hidden states after the final norm, compute dtype. Padding never influences real tokens.

        Args:
          lengths: real tokens of each row; None: rows have no padding.
          starts: first real position of rows that are padded on the left; None: 0.
          segment_ids: of packed suffixes, in place of `lengths`: SHARED_PREFIX for the tokens that a row begins with,
            1, 2, ... for suffixes, each computed as if it alone followed the prefix, and PADDING at the end.
          prefix: keys and values of tokens that precede all rows.

        Raises:
          ValueError: both `segment_ids` and a prefix.
        """
        ends = lengths if starts is None or lengths is None else starts + lengths
        if prefix is not None and segment_ids is not None:
            raise ValueError("Packed suffixes have their prefix in their rows: give segment_ids or a prefix, not both.")
        num_before = 0
        if prefix is not None:
            num_before = prefix.length
            starts = jnp.zeros(len(tokens), jnp.int32) if starts is None else starts
        mask = RowMask(starts, ends, segment_ids)
        positions = jnp.broadcast_to(mask.positions(tokens.shape[1]), tokens.shape) + num_before
        by_kind = self._by_kind(positions, tokens.shape[1] + num_before)
        graphdef, stacked = nnx.split(self.layers)

        def body(x: jax.Array, layer: tuple[Any, Any, Any]) -> tuple[jax.Array, None]:
            params, kind, before = from_bits(layer)
            cos, sin, window = by_kind(kind)

            def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
                layer_mask = dataclasses.replace(mask, window=window)
                return self._attention(rotate(q, cos, sin), rotate(k, cos, sin), v, layer_mask, before)

            return parallel.constrain(nnx.merge(graphdef, params)(x, attend), "batch", None, None), None

        if self.config.remat != "none":
            body = jax.checkpoint(body, policy=REMAT[self.config.remat], prevent_cse=self.config.num_layers <= UNROLL)
        # Laid out as the table's columns are, then by rows: in one step XLA would gather what all replicas looked up.
        x = parallel.constrain(self._embed(tokens, self.embedding[...]), "replica", None, "embed")
        x = parallel.constrain(x, "batch", None, None)
        layers = (stacked, self._kinds(), to_bits(prefix.stacked()) if prefix else None)
        x, _ = jax.lax.scan(body, x, layers, unroll=self._unroll())
        return self.norm(x)

    def _attention(
        self, q: jax.Array, k: jax.Array, v: jax.Array, mask: RowMask, prefix: KeysValues | None = None
    ) -> Float[Array, "B T H K"]:
        config, scaling = self.config, self.config.score_scaling
        if prefix is not None:
            return prefill_attention(q, k, v, mask, scaling, prefix)
        implementation = dispatch.attention_implementation(config.kernels, config.dtype, config.head_dim)
        implementation = dispatch.unfused_implementation(implementation, mask, scaling)
        call: Callable[..., jax.Array] = functools.partial(attention, scaling=scaling, implementation=implementation)
        # The compiler divides the others over the mesh by itself.
        if implementation == "splash":
            call = parallel.per_device(call, (q.shape[0], config.num_kv_heads))
        return call(q, k, v, mask)

    def _unroll(self) -> int:
        return self.config.num_layers if self.config.num_layers <= UNROLL else 1

    # --- generation ---

    @property
    def decodes_per_layer(self) -> bool:
        """Returns what `decoding.is_per_layer` says of this model."""
        return is_per_layer(self.config)

    def init_cache(self, batch: int, length: int, per_layer: bool | None = None) -> Cache:
        """Returns an empty cache of `length` positions a row; `per_layer` as in `decoding_layers`."""
        config = self.config
        shape = (config.num_layers, batch, config.num_kv_heads, length, config.head_dim)
        return Cache.empty(shape, config.dtype, per_layer=self.decodes_per_layer if per_layer is None else per_layer)

    def decoding_layers(self, per_layer: bool | None = None) -> Any:
        """Returns parameters and kinds of the layers as `prefill` and `decode` read them: stacked, or a list.

        Args:
          per_layer: a list, where each layer has a cache of its own; see `decoding.layer_copies`. None: as
            `decodes_per_layer` says. A single pass is not worth the copies.
        """
        stacked, kinds = nnx.split(self.layers)[1], self._kinds()
        if self.decodes_per_layer if per_layer is None else per_layer:
            return layer_copies(stacked, kinds, self.config)
        return to_bits(stacked), kinds

    def prefill(
        self, tokens: Int[Array, "B T"], starts: Int[Array, " B"], cache: Cache, layers: Any
    ) -> tuple[Float[Array, "B T D"], Cache]:
        """Computes hidden states of left-padded prompts, and writes their keys and values to positions 0 to T.

        Args:
          starts: first real position of each row; T for a row without tokens.
          layers: see `decoding_layers`.
        """
        mask = RowMask(starts)

        def attend(q: jax.Array, k: jax.Array, v: jax.Array, window: Window, layer: LayerCache) -> jax.Array:
            return self._attention(q, k, v, dataclasses.replace(mask, window=window), layer.prefix)

        positions = mask.positions(tokens.shape[1]) + cache.prefix_length
        return self._through_cache(tokens, positions, cache, layers, 0, attend)

    def decode(
        self,
        token: Int[Array, " B"],
        starts: Int[Array, " B"],
        position: Int[Array, ""],
        cache: Cache,
        layers: Any,
    ) -> tuple[Float[Array, "B D"], Cache]:
        """Computes the hidden state of one more token a row at `position`; it sees starts[b] <= s <= position.

        Args:
          layers: see `decoding_layers`.
        """
        in_sequence = position - starts + cache.prefix_length

        def attend(q: jax.Array, k: jax.Array, v: jax.Array, window: Window, layer: LayerCache) -> jax.Array:
            mask, scaling = RowMask(starts, window=window), self.config.score_scaling
            return decode_attention(q[:, 0], *layer.read(), mask, position, scaling, layer.prefix)[:, None]

        hidden, cache = self._through_cache(token[:, None], in_sequence[:, None], cache, layers, position, attend)
        return hidden[:, 0], cache

    def _through_cache(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        cache: Cache,
        layers: Any,
        position: Any,
        attend: Callable[..., jax.Array],
    ) -> tuple[Float[Array, "B T D"], Cache]:
        """Runs the blocks; each writes keys and values at `position` of its cache, then attends by attend(q, k, v,
        window, cache of the layer)."""
        by_kind = self._by_kind(positions, cache.prefix_length + cache.length)
        graphdef = nnx.split(self.layers)[0]

        def step(x: jax.Array, inputs: tuple[Any, Any], layer: LayerCache) -> tuple[jax.Array, LayerCache]:
            params, kind = inputs
            cos, sin, window = by_kind(kind)

            def write_and_attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
                nonlocal layer
                q, k = rotate(q, cos, sin), rotate(k, cos, sin)
                layer = layer.write(k, v, position)
                return attend(q, k, v, window, layer)

            block = nnx.merge(graphdef, from_bits(params))
            for name in self.config.linear_layers:
                getattr(block, name).is_transposed = isinstance(layers, list)
            x = block(x, write_and_attend)
            return parallel.constrain(x, "batch", None, None), layer

        # In generation, fsdp does not split the table.
        x = parallel.constrain(self._embed(tokens, to_bits(self.embedding[...])), "batch", None, None)
        x, cache = cache.scan(step, x, layers)
        return self.norm(x), cache


@flax.struct.dataclass
class Model:
    """A model that passes through jit: structure (static) and parameters, those that are not trained in a second tree.

    With `config.lora`, `params` are the adapters and a scalar head, and `frozen` all others; several models may share
    the arrays of `frozen`. Otherwise all parameters are in `params`.
    """

    graphdef: nnx.GraphDef = flax.struct.field(pytree_node=False)
    config: Config = flax.struct.field(pytree_node=False)
    params: Any  # an nnx.State of what a training changes; None: the structure alone
    frozen: Any = None  # an nnx.State of what it does not change; None: there is nothing of this

    def with_params(self, params: Any) -> Model:
        """Returns the same structure and frozen parameters with other trained parameters, or none."""
        return dataclasses.replace(self, params=params)

    @classmethod
    def of(cls, module: Any) -> Self:
        """Splits a module into structure and parameters."""
        if module.config.lora is None:
            return cls(*_split(module, ...))
        return cls(*_split(module, _is_trained, ...))

    def states(self) -> tuple[Any, ...]:
        """Returns the trees that have all parameters together."""
        return (self.params,) if self.frozen is None else (self.params, self.frozen)

    def as_bits(self) -> Model:
        """Returns the model for forward passes alone: on CPUs, a copy with bfloat16 layers and embeddings as integers.

        See kernels/bits.py. On other platforms it is the model itself.
        """
        return dataclasses.replace(self, params=_with_bits(self.params), frozen=_with_bits(self.frozen))

    def bind(self) -> Any:
        """Returns the CausalLM or ScalarModel with these parameters."""
        return nnx.merge(self.graphdef, *self.states())


def _split(module: Any, *filters: Any) -> tuple[Any, ...]:
    graphdef, *states = nnx.split(module, *filters)
    return graphdef, module.config, *states


def _with_bits(state: Any) -> Any:
    if state is None or jax.default_backend() != "cpu":
        return state
    flat, convert = nnx.to_flat_state(state), jax.jit(to_bits)

    def is_read(path: tuple, variable: Any) -> bool:
        return ("layers" in path or path[-1] == "embedding") and variable[...].dtype == jnp.bfloat16

    return nnx.from_flat_state([(path, convert(x) if is_read(path, x) else x) for path, x in flat])


def _is_trained(path: tuple, _: Any) -> bool:
    """Returns whether a parameter of a model with adapters is trained."""
    return path[-1] in ADAPTERS or path[0] == "reward_head"


def trainable(params: Any) -> Any:
    """Marks every parameter but the unused head of a scalar model's backbone, which no gradient reaches.

    A tree of booleans like `params`; weight decay must leave the False ones alone, as torch does without a gradient.
    """

    def reached(path: tuple, _: jax.Array) -> bool:
        names = [str(getattr(key, "key", getattr(key, "name", key))) for key in path]
        return not ("backbone_model" in names and "head" in names)

    return jax.tree_util.tree_map_with_path(reached, params)
