"""Kinds of devices and what they can do: the one table that memory, hours and checks of a plan read."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from typing import Self

import jax

from lc_jax.activations import device_bytes
from lc_jax.memory import GB
from lc_jax.preflight import Problems

# Memory (bytes), dense bfloat16 peak (FLOP/s), memory bandwidth (bytes/s), from the vendors' data sheets. The memory is
# the nominal one: drivers report up to 7% more, which is room for the error of a plan.
_KINDS = {
    "a100": (80e9, 312e12, 2.04e12),
    "a100-40gb": (40e9, 312e12, 1.56e12),
    "h100": (80e9, 989e12, 3.35e12),
    "h200": (141e9, 989e12, 4.8e12),
    "b200": (180e9, 2250e12, 8.0e12),
    "v4": (32e9, 275e12, 1.23e12),
    "v5e": (16e9, 197e12, 0.82e12),
    "v5p": (95e9, 459e12, 2.77e12),
    "v6e": (32e9, 918e12, 1.64e12),
}
_TPUS = ("v4", "v5e", "v5p", "v6e")
# What JAX calls them, where that is not their name above.
_DEVICE_KINDS = {"tpu v5 lite": "v5e", "tpu v5": "v5p", "tpu v6 lite": "v6e"}
FRACTION = "XLA_PYTHON_CLIENT_MEM_FRACTION"
_DEFAULT_FRACTION = 0.75  # JAX's own


@dataclasses.dataclass(frozen=True)
class Devices:
    """Equal devices of one run."""

    kind: str
    count: int
    limit: float  # bytes of each that arrays may take
    flops: float = math.nan  # bfloat16 FLOP/s of each; NaN: unknown
    bandwidth: float = math.nan  # bytes/s of each

    @classmethod
    def parse(cls, name: str) -> Self:
        """Returns the devices of a name such as "8xa100".

        Raises:
          Problems: the name has another form, or an unknown kind.
        """
        match = re.fullmatch(r"([1-9]\d*)x([\w-]+)", name.lower())
        if match is None or match[2] not in _KINDS:
            raise Problems([f"--devices={name}: give NUMBERxKIND, such as 8xa100; kinds are {', '.join(_KINDS)}."])
        memory, flops, bandwidth = _KINDS[match[2]]
        fraction = 1.0 if match[2] in _TPUS else float(os.environ.get(FRACTION) or _DEFAULT_FRACTION)
        return cls(match[2], int(match[1]), memory * fraction, flops, bandwidth)

    @classmethod
    def choose(cls, name: str, profile: str = "") -> Self:
        """Returns the devices of a name, or else those of a profile's name such as 1xh200, or else those that are here.

        Raises:
          Problems: `name` is no name of devices.
        """
        name = name or (profile if _is_name(profile) else "")
        return cls.parse(name) if name else cls.here()

    @classmethod
    def here(cls) -> Self:
        """Returns the devices of this machine, with the memory that JAX takes of them."""
        kind = kind_of(jax.devices()[0].device_kind)
        _, flops, bandwidth = _KINDS.get(kind, (math.nan,) * 3)
        return cls(kind, jax.device_count(), device_bytes(), flops, bandwidth)

    def __str__(self) -> str:
        return f"{self.count}x{self.kind}, {self.limit / GB:.1f} GB of each for arrays"


def kind_of(device_kind: str) -> str:
    """Returns the kind of devices that JAX calls `device_kind`; that name in lower case where the kind is unknown."""
    name = device_kind.lower()
    # The longest first: "NVIDIA A100-SXM4-40GB" is an a100-40gb, "NVIDIA A100-SXM4-80GB" an a100.
    kinds = sorted(_KINDS, key=len, reverse=True)
    return _DEVICE_KINDS.get(name) or next((kind for kind in kinds if all(p in name for p in kind.split("-"))), name)


def _is_name(name: str) -> bool:
    """Returns whether a name, such as a profile's, is one of devices."""
    count, _, kind = name.lower().partition("x")
    return count.isdigit() and kind in _KINDS
