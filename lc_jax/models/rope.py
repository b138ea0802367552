"""Rotary position embedding (Su et al. 2021): frequencies and their scalings, tables of angles, and the rotation."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from lc_jax.models.config_file import ConfigFile


@dataclasses.dataclass(frozen=True, kw_only=True)
class Scaling:
    """A scaling of rotary frequencies for longer contexts; its fields have config.json's names."""

    def apply(self, inverse: Float[Array, " R"], theta: float) -> Float[Array, " R"]:
        """Returns the scaled frequencies of all planes, radians per position."""
        raise NotImplementedError

    def amplitude(self, max_length: int) -> float:
        """Returns the factor of queries and keys that goes with it: 1 unless a scaling has another."""
        return 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Linear(Scaling):
    """Positions divided by `factor`."""

    factor: float

    def apply(self, inverse: Float[Array, " R"], theta: float) -> Float[Array, " R"]:
        """Divides all frequencies."""
        return inverse / self.factor


@dataclasses.dataclass(frozen=True, kw_only=True)
class Llama3(Scaling):
    """Llama 3's stretching of low rotary frequencies."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_position_embeddings: int

    def apply(self, inverse: Float[Array, " R"], theta: float) -> Float[Array, " R"]:
        """Divides slow frequencies by `factor`, leaves fast ones as they are, and blends those between."""
        wavelength = 2 * math.pi / inverse
        turns = self.original_max_position_embeddings / wavelength
        blend = (turns - self.low_freq_factor) / (self.high_freq_factor - self.low_freq_factor)
        blend = jnp.clip(blend, 0.0, 1.0)
        return inverse * (blend + (1 - blend) / self.factor)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Yarn(Scaling):
    """YaRN (Peng et al. 2023): planes that turn often stay, slow ones are stretched, queries and keys grow."""

    factor: float
    original_max_position_embeddings: int
    attention_factor: float | None = None
    beta_fast: float | None = None  # turns over the original length from which on a plane stays; None: 32
    beta_slow: float | None = None  # turns below which it is stretched by the whole factor; None: 1
    mscale: float | None = None
    mscale_all_dim: float | None = None
    truncate: bool | None = None  # round the planes between which the two are blended outwards; None: True

    def apply(self, inverse: Float[Array, " R"], theta: float) -> Float[Array, " R"]:
        """Blends stretched and original frequencies, linearly in the number of the plane."""

        def plane(turns: float) -> float:
            """Returns the number of the plane, a fraction, that turns so often over the original length."""
            wavelength = self.original_max_position_embeddings / turns
            return len(inverse) * math.log(wavelength / (2 * math.pi)) / math.log(theta)

        low, high = plane(self.beta_fast or 32), plane(self.beta_slow or 1)
        if self.truncate is not False:
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, 2 * len(inverse) - 1)
        stretch = (jnp.arange(len(inverse), dtype=jnp.float32) - low) / (high - low if high != low else 0.001)
        stretch = jnp.clip(stretch, 0.0, 1.0)
        return inverse / self.factor * stretch + inverse * (1 - stretch)

    def amplitude(self, max_length: int) -> float:
        """Returns `attention_factor`, by default 0.1 ln(factor) + 1 (equation 22)."""

        def default(mscale: float) -> float:
            return 0.1 * mscale * math.log(self.factor) + 1 if self.factor > 1 else 1.0

        if self.attention_factor is not None:
            return self.attention_factor
        if self.mscale and self.mscale_all_dim:
            return default(self.mscale) / default(self.mscale_all_dim)
        return default(1.0)


@dataclasses.dataclass(frozen=True, kw_only=True)
class LongRope(Scaling):
    """LongRoPE (Ding et al. 2024): a factor for each plane, for sequences of up to the original length or longer ones.

    transformers takes the long factors as soon as one sequence of a batch is longer, so that what a model writes
    depends on the others of its batch and changes in the middle. Here rows end at the original length.
    """

    short_factor: tuple[float, ...]
    long_factor: tuple[float, ...]
    original_max_position_embeddings: int
    factor: float | None = None  # None: the model's longest sequence, in original lengths
    attention_factor: float | None = None

    def apply(self, inverse: Float[Array, " R"], theta: float) -> Float[Array, " R"]:
        """Divides each frequency by its short factor."""
        return inverse / jnp.asarray(self.short_factor, jnp.float32)

    def amplitude(self, max_length: int) -> float:
        """Returns `attention_factor`, by default sqrt(1 + ln(factor) / ln(original length))."""
        if self.attention_factor is not None:
            return self.attention_factor
        factor = self.factor or max_length / self.original_max_position_embeddings
        return math.sqrt(1 + math.log(max(factor, 1.0)) / math.log(self.original_max_position_embeddings))


SCALINGS: dict[str, Any] = {"linear": Linear, "llama3": Llama3, "yarn": Yarn, "longrope": LongRope}


@dataclasses.dataclass(frozen=True)
class Rope:
    """Rotary frequencies: powers of `theta`, then scaled."""

    theta: float
    scaling: Scaling | None = None  # None: as they are

    def inverse_frequencies(self, rotary_dim: int) -> Float[Array, " R"]:
        """Returns the angle per position of each of rotary_dim / 2 planes, radians."""
        exponents = jnp.arange(0, rotary_dim, 2, dtype=jnp.float32) / rotary_dim
        inverse = 1.0 / self.theta**exponents
        return inverse if self.scaling is None else self.scaling.apply(inverse, self.theta)

    def to_hf(self) -> dict[str, Any]:
        """Returns the keys of config.json but `rope_theta`; empty without a scaling."""
        if self.scaling is None:
            return {}
        name = next(name for name, scaling in SCALINGS.items() if isinstance(self.scaling, scaling))
        numbers = {k: v for k, v in dataclasses.asdict(self.scaling).items() if v is not None}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in numbers.items()} | {"rope_type": name}


def read_rope(group: ConfigFile, theta: float, max_length: int) -> Rope:
    """Returns the rope that an object of config.json describes.

    Args:
      theta: the base where the object has none.
      max_length: the original length of a scaling that has none.

    Raises:
      ValueError: an unknown type of scaling, or one of its numbers is missing.
    """
    theta = group.number("rope_theta", theta)
    kind = group.raw.get("rope_type") or group.raw.get("type") or "default"
    if kind == "default":
        return Rope(theta)
    if not isinstance(kind, str) or kind not in SCALINGS:
        raise ValueError(f"config.json: rope scaling of type {kind!r} is not implemented, only {sorted(SCALINGS)}.")
    length = "original_max_position_embeddings"
    raw = {length: max_length} | {key: value for key, value in group.raw.items() if value is not None}
    group, values = ConfigFile(raw), dict[str, Any]()
    read: dict[str, Any] = {
        "float": group.number,
        "int": group.integer,
        "bool": lambda name: group.flag(name, True),
        "tuple[float, ...]": group.numbers,
    }
    for field in dataclasses.fields(SCALINGS[kind]):
        if field.name in raw or field.default is dataclasses.MISSING:
            values[field.name] = read[str(field.type).removesuffix(" | None")](field.name)
    if length in values and (theta <= 1 or values[length] < 2):  # their logarithms are divided by
        raise ValueError(f"config.json: rope_theta {theta} and {length} {values[length]} must be above 1.")
    return Rope(theta, SCALINGS[kind](**values))


def rope_settings(file: ConfigFile, default_theta: float) -> Rope:
    """Returns the rope of all layers, from `rope_parameters` (transformers 5) or `rope_theta` and `rope_scaling`.

    Raises:
      ValueError: as `read_rope`.
    """
    group = file.group("rope_parameters") or file.group("rope_scaling")
    nested = [key for key, value in group.items() if isinstance(value, dict)]
    if nested:
        raise ValueError(f"config.json: rope_parameters of their own for {nested[0]!r} are not implemented here.")
    theta = file.number("rope_theta", file.number("rotary_emb_base", default_theta))
    return read_rope(ConfigFile(group), theta, file.integer("max_position_embeddings", 2048))


def angles(
    ropes: Sequence[Rope | None], rotary_dim: int, max_length: int, positions: Int[Array, "B T"], length: int
) -> tuple[Float[Array, "*N B T R"], Float[Array, "*N B T R"]]:
    """Returns cosine and sine of the angle of each plane, from tables of the positions below `length`.

    Without the tables, XLA on CPUs computes both again in every rotation, for each head.

    Args:
      ropes: the result has a dimension for them where there are several; None: no rotation.
      max_length: positions in training.

    Raises:
      ValueError: LongRoPE, and `length` is above the original one.
    """
    columns = jnp.arange(max(length, 2))[:, None]  # padding is at position 1
    cosines, sines = list[jax.Array](), list[jax.Array]()
    for rope in ropes:
        if rope is not None and isinstance(rope.scaling, LongRope):
            original = rope.scaling.original_max_position_embeddings
            if length > original:
                raise ValueError(
                    f"Rows of {length} tokens: with LongRoPE they end at original_max_position_embeddings={original} "
                    "of config.json. Lower the lengths of prompts and responses."
                )
        inverse = jnp.zeros(rotary_dim // 2) if rope is None else rope.inverse_frequencies(rotary_dim)
        amplitude = 1.0 if rope is None or rope.scaling is None else rope.scaling.amplitude(max_length)
        table = columns * inverse
        for outs, values in ((cosines, jnp.cos(table)), (sines, jnp.sin(table))):
            outs.append(jnp.take(values if amplitude == 1 else values * amplitude, positions, axis=0))
    return (cosines[0], sines[0]) if len(ropes) == 1 else (jnp.stack(cosines), jnp.stack(sines))


@jax.custom_vjp
def rotate(
    x: Float[Array, "B T H K"], cos: Float[Array, "B T R"], sin: Float[Array, "B T R"]
) -> Float[Array, "B T H K"]:
    """Applies rotary position embedding to the first 2R dimensions of each head (planes i and i + R), in float32.

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
