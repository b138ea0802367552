"""What decoder families share: embedding, a scan over stacked blocks, final norm, head, and generation over a cache.

A family (llama.py, gpt_neox.py) brings a config, a block and a table of its Hugging Face keys.
"""

from __future__ import annotations

import dataclasses
import functools
import operator
from collections.abc import Callable
from typing import Any, Self

import flax.struct
import jax
import jax.numpy as jnp
from flax import nnx
from jaxtyping import Array, Float, Int

from lc_jax import parallel
from lc_jax.kernels import forms
from lc_jax.kernels.attention import attention, decode_attention, masked_attention, prefill_attention
from lc_jax.kernels.logprobs import token_logprobs
from lc_jax.models.cache import Cache
from lc_jax.preflight import check_all, check_settings

Attend = Callable[[jax.Array, jax.Array, jax.Array], jax.Array]  # q [B T H K], k, v [B T G K] -> [B T H K]
UNROLL = 8  # up to this many layers the loop over layers is unrolled: faster, and still quick to compile
DTYPES = ("float32", "bfloat16", "float16")
REMAT = {
    "full": jax.checkpoint_policies.nothing_saveable,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Config:
    """What every family needs to know; a family's config adds its own."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rotary_dim: int  # leading part of each head that is rotated
    rope_theta: float
    norm_eps: float
    max_length: int  # positions seen in training
    tied_embeddings: bool
    bos_id: int | None = None
    eos_ids: tuple[int, ...] = ()
    initializer_range: float = 0.02  # standard deviation of fresh matrices
    param_dtype: str = "float32"
    compute_dtype: str = "float32"
    remat: str = "none"  # "none", "full" (keep block inputs only) or "dots" (keep matmul outputs too)
    kernels: str = "auto"  # kernels/forms.py

    def __post_init__(self) -> None:
        names = dict(param_dtype=DTYPES, compute_dtype=DTYPES, remat=("none", *REMAT))
        check_all(
            lambda: check_settings("precision", self, **names),
            lambda: check_settings("", self, kernels=forms.KERNELS),
        )

    @property
    def dtype(self) -> jnp.dtype:
        """Of activations and matmuls."""
        return jnp.dtype(self.compute_dtype)

    def inverse_frequencies(self) -> Float[Array, " R"]:
        """Rotary angle per position of each of rotary_dim / 2 planes, radians."""
        exponents = jnp.arange(0, self.rotary_dim, 2, dtype=jnp.float32) / self.rotary_dim
        return 1.0 / self.rope_theta**exponents

    def build(self, key: jax.Array) -> CausalLM:
        """A freshly initialised model of this family."""
        raise NotImplementedError

    @classmethod
    def from_hf(cls, config: dict[str, Any], **precision: str) -> Self:
        """From the contents of config.json. Raises ValueError, naming the key, at what is not implemented."""
        raise NotImplementedError

    def to_hf(self) -> dict[str, Any]:
        """The contents of config.json."""
        raise NotImplementedError


class Linear(nnx.Module):
    """x @ kernel + bias, one per layer when `layers` is given (leading dimension)."""

    def __init__(
        self, key: jax.Array, shape: tuple[int, int], axes: tuple[str, str], config: Config, *, bias: bool, layers: int
    ) -> None:
        lead, names = ((layers,), ("layers",)) if layers else ((), ())
        values = config.initializer_range * jax.random.normal(key, (*lead, *shape), jnp.float32)
        self.kernel = nnx.Param(values.astype(config.param_dtype), out_sharding=(*names, *axes))
        out = axes[1] if axes[1] != "embed" else "norm"
        zeros = jnp.zeros((*lead, shape[1]), config.param_dtype)
        self.bias = nnx.Param(zeros, out_sharding=(*names, out)) if bias else None

    def __call__(self, x: Float[Array, "*B I"]) -> Float[Array, "*B O"]:
        flat = x.reshape(-1, x.shape[-1])  # as one matrix: on CPUs the backward pass is much faster
        y = (flat @ self.kernel[...].astype(x.dtype)).reshape(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias[...].astype(x.dtype)


class Norm(nnx.Module):
    """RMSNorm, or LayerNorm when `bias`; computed in float32, given back in the input's dtype."""

    def __init__(self, config: Config, *, bias: bool, layers: int = 0) -> None:
        lead, names = ((layers,), ("layers",)) if layers else ((), ())
        shape, axes = (*lead, config.hidden_size), (*names, "norm")
        self.eps = config.norm_eps
        self.scale = nnx.Param(jnp.ones(shape, config.param_dtype), out_sharding=axes)
        self.bias = nnx.Param(jnp.zeros(shape, config.param_dtype), out_sharding=axes) if bias else None

    def __call__(self, x: Float[Array, "*B D"]) -> Float[Array, "*B D"]:
        y = x.astype(jnp.float32)
        if self.bias is not None:
            y = y - jnp.mean(y, axis=-1, keepdims=True)
        y = y * jax.lax.rsqrt(jnp.mean(jnp.square(y), axis=-1, keepdims=True) + self.eps)
        y = y * self.scale[...].astype(jnp.float32)
        return (y if self.bias is None else y + self.bias[...].astype(jnp.float32)).astype(x.dtype)


@jax.custom_vjp
def rotate(
    x: Float[Array, "B T H K"], cos: Float[Array, "B T R"], sin: Float[Array, "B T R"]
) -> Float[Array, "B T H K"]:
    """Rotary position embedding of the first 2R dimensions of each head (planes i and i + R), float32 inside.

    Its gradient is the rotation back; angles have none.
    """
    half = cos.shape[-1]
    cos, sin = cos[:, :, None], sin[:, :, None]
    a, b, rest = x[..., :half].astype(jnp.float32), x[..., half : 2 * half].astype(jnp.float32), x[..., 2 * half :]
    turned = jnp.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1).astype(x.dtype)
    return jnp.concatenate([turned, rest], axis=-1) if rest.shape[-1] else turned


rotate.defvjp(
    lambda x, cos, sin: (rotate(x, cos, sin), (cos, sin)),
    lambda angles, by_y: (rotate(by_y, angles[0], -angles[1]), None, None),
)


def positions_of(spans: Int[Array, "B 2"], length: int) -> Int[Array, "B T"]:
    """Place of each slot in its row's span, and 1 outside it, as transformers numbers masked slots in generation."""
    slots = jnp.arange(length)
    inside = (slots >= spans[:, :1]) & (slots < spans[:, 1:])
    return jnp.where(inside, slots - spans[:, :1], 1)


class CausalLM(nnx.Module):
    """A decoder. `spans` says which slots start <= t < end of row b hold real tokens (None: all slots do)."""

    def __init__(self, config: Config, key: jax.Array, block: Callable[..., nnx.Module], *, norm_bias: bool) -> None:
        embed_key, block_key, head_key = jax.random.split(key, 3)
        self.config = config
        shape = (config.vocab_size, config.hidden_size)
        table = config.initializer_range * jax.random.normal(embed_key, shape, jnp.float32)
        self.embedding = nnx.Param(table.astype(config.param_dtype), out_sharding=("vocab", "embed"))
        self.layers = block(config, block_key)
        self.norm = Norm(config, bias=norm_bias)
        shape = (config.hidden_size, config.vocab_size)
        self.head = (
            None
            if config.tied_embeddings
            else Linear(head_key, shape, ("embed", "vocab"), config, bias=False, layers=0)
        )

    def head_matrix(self) -> Float[Array, "D V"]:
        """Hidden states to logits, in the compute dtype."""
        matrix = self.embedding[...].T if self.head is None else self.head.kernel[...]
        return matrix.astype(self.config.dtype)

    def logits(self, hidden: Float[Array, "*B D"]) -> Float[Array, "*B V"]:
        """Float32 logits."""
        return jnp.matmul(hidden, self.head_matrix(), preferred_element_type=jnp.float32)

    def logprobs(
        self, hidden: Float[Array, "B T D"], targets: Int[Array, "B T"], temperature: Float[Array, ""]
    ) -> tuple[Float[Array, "B T"], Float[Array, "B T"]]:
        """Log-probability of each target and the entropy where it stands; see `token_logprobs`."""
        form = forms.logprobs_form(self.config.kernels)
        return token_logprobs(hidden, self.head_matrix(), targets, temperature, form)

    def _embed(self, tokens: Int[Array, "B T"]) -> Float[Array, "B T D"]:
        return jnp.take(self.embedding[...], tokens, axis=0).astype(self.config.dtype)

    def _angles(self, positions: Int[Array, "B T"], length: int) -> tuple[Float[Array, "B T R"], Float[Array, "B T R"]]:
        """Cosine and sine of each plane's angle, read from a table of the positions below `length`.

        Of angles made from the positions themselves XLA on CPUs computes both anew in every rotation, for each head.
        """
        table = jnp.arange(max(length, 2))[:, None] * self.config.inverse_frequencies()  # masked slots stand at 1
        return jnp.take(jnp.cos(table), positions, axis=0), jnp.take(jnp.sin(table), positions, axis=0)

    def __call__(self, tokens: Int[Array, "B T"], spans: Int[Array, "B 2"] | None = None) -> Float[Array, "B T D"]:
        """Hidden states after the final norm, compute dtype. Slots outside a span never influence slots inside.

        Fused kernels (forms.FUSED) need spans that begin at slot 0.
        """
        everything = jnp.array([[0, tokens.shape[1]]], jnp.int32)
        positions = positions_of(everything if spans is None else spans, tokens.shape[1])
        positions = jnp.broadcast_to(positions, tokens.shape)
        form = forms.attention_form(self.config.kernels, self.config.dtype, self.config.head_dim)
        return self._through(tokens, positions, lambda q, k, v: self._attention(q, k, v, spans, form))

    def branch(
        self,
        tokens: Int[Array, "B W"],
        spans: Int[Array, "B 2"],
        tails: Int[Array, "B U"],
        branches: Int[Array, "B U"],
    ) -> Float[Array, "B U D"]:
        """Hidden states of several continuations of each row, as if each stood behind it alone.

        Args:
          tokens, spans: what the continuations of a row have in common, from slot 0 on; it is computed once.
          tails, branches: their tokens, one continuation after the other, and which one each token belongs to; what is
            behind the last one is padding and has a number of its own.
        """
        width, length = tokens.shape[1], tails.shape[1]
        own = (branches[:, :, None] == branches[:, None, :]) & jnp.tri(length, dtype=bool)
        before = (jnp.arange(width) >= spans[:, :1]) & (jnp.arange(width) < spans[:, 1:])
        mask = jnp.concatenate([jnp.broadcast_to(before[:, None], (*own.shape[:2], width)), own], axis=2)
        positions = jnp.concatenate([positions_of(spans, width), jnp.sum(mask, axis=2) - 1], axis=1)
        form = forms.attention_form(self.config.kernels, self.config.dtype, self.config.head_dim)

        def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            common = self._attention(q[:, :width], k[:, :width], v[:, :width], spans, form)
            tail = masked_attention(q[:, width:], k, v, mask, self.config.head_dim**-0.5)
            return jnp.concatenate([common, tail], axis=1)

        return self._through(jnp.concatenate([tokens, tails], axis=1), positions, attend)[:, width:]

    def _through(self, tokens: Int[Array, "B T"], positions: Int[Array, "B T"], over: Attend) -> Float[Array, "B T D"]:
        """Runs embedding, blocks and final norm; `over` attends with rotated queries and keys."""
        cos, sin = self._angles(positions, tokens.shape[1])
        graphdef, stacked = nnx.split(self.layers)

        def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
            return over(rotate(q, cos, sin), rotate(k, cos, sin), v)

        def body(x: jax.Array, layer: Any) -> tuple[jax.Array, None]:
            return parallel.constrain(nnx.merge(graphdef, layer)(x, attend), "batch", None, None), None

        if self.config.remat != "none":
            body = jax.checkpoint(body, policy=REMAT[self.config.remat], prevent_cse=self.config.num_layers <= UNROLL)
        # Laid out as the table's columns are, then by rows: in one step XLA would gather what all replicas looked up.
        x = parallel.constrain(self._embed(tokens), "replica", None, "embed")
        x = parallel.constrain(x, "batch", None, None)
        x, _ = jax.lax.scan(body, x, stacked, unroll=self._unroll())
        return self.norm(x)

    def _attention(
        self, q: jax.Array, k: jax.Array, v: jax.Array, spans: Int[Array, "B 2"] | None, form: str
    ) -> Float[Array, "B T H K"]:
        call: Callable[..., jax.Array] = functools.partial(attention, scale=self.config.head_dim**-0.5, form=form)
        # The compiler divides the others over the mesh by itself.
        if form == "splash":
            call = parallel.per_device(call, (q.shape[0], self.config.num_kv_heads))
        return call(q, k, v, spans)

    def _unroll(self) -> int:
        return self.config.num_layers if self.config.num_layers <= UNROLL else 1

    def init_cache(self, batch: int, length: int) -> Cache:
        """An empty cache of `length` slots a row."""
        config, shallow = self.config, self._unroll() > 1
        shape = (batch, config.num_kv_heads, length, config.head_dim)
        axes, lead = ("batch", "heads", None, None), () if shallow else (config.num_layers,)
        empty = parallel.constrain(jnp.zeros(lead + shape, config.dtype), *(None,) * len(lead), *axes)
        arrays = (empty,) * (config.num_layers if shallow else 1)
        return Cache(arrays, arrays)

    def _through_cache(
        self,
        tokens: Int[Array, "B T"],
        positions: Int[Array, "B T"],
        cache: Cache,
        slot: Any,
        read: Callable[..., jax.Array],
    ) -> tuple[Float[Array, "B T D"], Cache]:
        """Runs the blocks; each stores keys and values from `slot` on, then attends by read(q, k, v, keys, values,
        common), the last one a pair or None.

        The cache is carried and updated in place: as inputs and outputs of the scan it would be copied for every token.
        """
        cos, sin = self._angles(positions, cache.num_common + cache.length)
        graphdef, stacked = nnx.split(self.layers)

        def body(carry: tuple, inputs: tuple) -> tuple[tuple, None]:
            (x, kept), (layer, index, common) = carry, inputs

            def store(whole: jax.Array, part: Float[Array, "B T G K"]) -> jax.Array:
                part, place = part.swapaxes(1, 2).astype(whole.dtype), (0, 0, slot, 0)
                if index is None:
                    return jax.lax.dynamic_update_slice(whole, part, place)
                return jax.lax.dynamic_update_slice(whole, part[None], (index, *place))

            def attend(q: jax.Array, k: jax.Array, v: jax.Array) -> jax.Array:
                nonlocal kept
                q, k = rotate(q, cos, sin), rotate(k, cos, sin)
                kept = store(kept[0], k), store(kept[1], v)
                return read(q, k, v, *(kept if index is None else (kept[0][index], kept[1][index])), common)

            x = parallel.constrain(nnx.merge(graphdef, layer)(x, attend), "batch", None, None)
            return (x, kept), None

        x = parallel.constrain(self._embed(tokens), "batch", None, None)  # from a table that is whole on the fsdp axis
        arrays, common = list(zip(cache.keys, cache.values, strict=True)), cache.common
        before = list(zip(common.keys, common.values, strict=True)) if common else [None] * len(arrays)
        if len(arrays) == 1:
            layers = (stacked, jnp.arange(self.config.num_layers), before[0])
            (x, arrays[0]), _ = jax.lax.scan(body, (x, arrays[0]), layers)
        else:
            for i, kept in enumerate(arrays):
                layer = jax.tree.map(operator.itemgetter(i), stacked)
                (x, arrays[i]), _ = body((x, kept), (layer, None, before[i]))
        keys, values = zip(*arrays, strict=True)
        return self.norm(x), Cache(keys, values, common)

    def prefill(
        self, tokens: Int[Array, "B T"], spans: Int[Array, "B 2"], cache: Cache
    ) -> tuple[Float[Array, "B T D"], Cache]:
        """Hidden states of prompts, and the cache with their keys and values in slots 0 to T."""
        form = forms.attention_form(self.config.kernels, self.config.dtype, self.config.head_dim)
        form = "portable" if form in forms.FUSED else form  # prompts are padded on the left

        def read(q: jax.Array, k: jax.Array, v: jax.Array, _: Any, __: Any, common: Any) -> jax.Array:
            if common is None:
                return self._attention(q, k, v, spans, form)
            return prefill_attention(q, k, v, spans, self.config.head_dim**-0.5, common)

        positions = positions_of(spans, tokens.shape[1]) + cache.num_common
        return self._through_cache(tokens, positions, cache, 0, read)

    def decode(
        self,
        token: Int[Array, " B"],
        starts: Int[Array, " B"],
        slot: Int[Array, ""],
        cache: Cache,
    ) -> tuple[Float[Array, "B D"], Cache]:
        """Hidden state of one more token a row, written to `slot`; it sees the slots starts[b] <= s <= slot."""
        scale, positions = self.config.head_dim**-0.5, slot - starts + cache.num_common

        def read(q: jax.Array, k: Any, v: Any, keys: jax.Array, values: jax.Array, common: Any) -> jax.Array:
            return decode_attention(q[:, 0], keys, values, starts, slot + 1, scale, common)[:, None]

        hidden, cache = self._through_cache(token[:, None], positions[:, None], cache, slot, read)
        return hidden[:, 0], cache


@flax.struct.dataclass
class Model:
    """A model that passes through jit: structure (static) and parameters."""

    graphdef: nnx.GraphDef = flax.struct.field(pytree_node=False)
    config: Config = flax.struct.field(pytree_node=False)
    params: Any  # an nnx.State; None where only the structure is wanted

    def with_params(self, params: Any) -> Model:
        """The same structure around other parameters, or none."""
        return dataclasses.replace(self, params=params)

    @classmethod
    def of(cls, module: Any) -> Self:
        """Takes a module apart."""
        graphdef, params = nnx.split(module)
        return cls(graphdef, module.config, params)

    def bind(self) -> Any:
        """The CausalLM or ScalarModel around these parameters."""
        return nnx.merge(self.graphdef, self.params)


def trainable(params: Any) -> Any:
    """True for every parameter but the unused head of a scalar model's backbone, which no gradient reaches.

    A tree of booleans like `params`; weight decay must leave the False ones alone, as torch does without a gradient.
    """

    def reached(path: tuple, _: jax.Array) -> bool:
        names = [str(getattr(key, "key", getattr(key, "name", key))) for key in path]
        return not ("backbone_model" in names and "head" in names)

    return jax.tree_util.tree_map_with_path(reached, params)
