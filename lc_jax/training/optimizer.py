"""AdamW with global-norm clipping and the learning rate schedules of transformers."""

from __future__ import annotations

import dataclasses
from typing import Any, Self, TypeAlias

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float

from lc_jax.preflight import NATURAL, NON_NEGATIVE, POSITIVE_INT, PROBABILITY, Range, check_settings
from lc_jax.training import adamw_int8

SCHEDULES = ("cosine", "linear", "constant")
BELOW_ONE = Range(0, below=1)
KINDS = ("adamw", "adamw_int8", "adamw_int8_master")

Optimizer: TypeAlias = optax.GradientTransformationExtraArgs | adamw_int8.InPlace


@dataclasses.dataclass(frozen=True)
class OptimizerSettings:
    """Hyperparameters of AdamW.

    The learning rate rises linearly from 0 over `warmup_steps`, then follows `schedule` to 0 at `num_steps`.
    """

    learning_rate: float
    num_steps: int
    warmup_steps: int
    schedule: str  # "cosine", "linear" or "constant"
    b1: float
    b2: float
    eps: float
    weight_decay: float  # for every trained parameter, norms and biases too
    clip_norm: float  # maximum global norm of the gradient
    kind: str = "adamw"  # "adamw_int8": 8-bit moments; "adamw_int8_master": also exact master copies of bfloat16

    def __post_init__(self) -> None:
        check_settings(
            "optimizer", self, learning_rate=NON_NEGATIVE, num_steps=POSITIVE_INT, warmup_steps=NATURAL,
            schedule=SCHEDULES, b1=BELOW_ONE, b2=BELOW_ONE, eps=NON_NEGATIVE, weight_decay=NON_NEGATIVE, kind=KINDS,
        )  # fmt: skip
        if not self.clip_norm > 0:
            raise ValueError(
                f"--config.optimizer.clip_norm={self.clip_norm}: give a number above 0; inf clips nothing."
            )

    @classmethod
    def from_ratio(
        cls, num_steps: int, *, warmup_ratio: float = 0.0, warmup_steps: int | None = None, **rest: Any
    ) -> Self:
        """Makes settings with `warmup_steps`, or else a share of the steps (rounded up as in transformers)."""
        if warmup_steps is None and warmup_ratio not in PROBABILITY:
            raise ValueError(f"--config.optimizer.warmup_ratio={warmup_ratio}: give {PROBABILITY}.")
        steps = -int(-num_steps * warmup_ratio // 1) if warmup_steps is None else warmup_steps
        return cls(num_steps=num_steps, warmup_steps=steps, **rest)

    def learning_rate_at(self, step: Float[Array, ""] | int) -> Float[Array, ""]:
        """Returns the learning rate of update `step`, counted from 0; with a warm-up that of the first update is 0."""
        step = jnp.asarray(step, jnp.float32)
        warmup = step / max(1, self.warmup_steps)
        progress = (step - self.warmup_steps) / max(1, self.num_steps - self.warmup_steps)
        progress = jnp.clip(progress, 0.0, 1.0)
        decay = {
            "cosine": 0.5 * (1.0 + jnp.cos(jnp.pi * progress)),
            "linear": 1.0 - progress,
            "constant": jnp.ones_like(progress),
        }[self.schedule]
        return self.learning_rate * jnp.where(step < self.warmup_steps, warmup, decay)


def clip_by_global_norm(max_norm: float) -> optax.GradientTransformationExtraArgs:
    """Returns scaling of all gradients by min(1, max_norm / (norm + 1e-6)), as torch.nn.utils.clip_grad_norm_ does.

    `update` takes `norm` if the caller has computed it.
    """

    def update(updates: Any, state: Any, params: Any = None, *, norm: Any = None, **_: Any) -> tuple[Any, Any]:
        factor = jnp.minimum(1.0, max_norm / ((optax.tree.norm(updates) if norm is None else norm) + 1e-6))
        return jax.tree.map(lambda g: g * factor.astype(g.dtype), updates), state

    return optax.GradientTransformationExtraArgs(lambda params: optax.EmptyState(), update)


def make_optimizer(settings: OptimizerSettings, trainable: Any) -> Optimizer:
    """Returns clipping and AdamW over the parameters that `trainable` (a tree of booleans) marks; others never change.

    Gradients of the others must be zero, so that they add nothing to the global norm. Arithmetic is float32 whatever
    the parameters' dtype, and so are the moments of kind "adamw". bfloat16 parameters need another kind: rounded to
    nearest, they do not change where a step is below 1/512 of them.
    """
    rate, b1, b2, eps, decay = (
        settings.learning_rate_at, settings.b1, settings.b2, settings.eps, settings.weight_decay
    )  # fmt: skip
    if settings.kind != "adamw":
        master = settings.kind == "adamw_int8_master"
        return adamw_int8.adamw_int8(rate, (b1, b2), eps, decay, settings.clip_norm, trainable, master)
    adamw = optax.chain(clip_by_global_norm(settings.clip_norm), optax.adamw(rate, b1, b2, eps, weight_decay=decay))
    labels = jax.tree.map(lambda t: "train" if t else "keep", trainable)
    return optax.multi_transform({"train": _in_float32(adamw), "keep": optax.set_to_zero()}, labels)


def _in_float32(inner: optax.GradientTransformationExtraArgs) -> optax.GradientTransformationExtraArgs:
    """Wraps `inner` to compute with float32 gradients, parameters and moments."""

    def cast(tree: Any) -> Any:
        return jax.tree.map(lambda x: x.astype(jnp.float32), tree)

    return optax.GradientTransformationExtraArgs(
        lambda params: inner.init(cast(params)),
        lambda updates, state, params=None, **rest: inner.update(cast(updates), state, cast(params), **rest),
    )
