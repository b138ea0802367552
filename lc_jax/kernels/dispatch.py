"""Chooses the implementation of each kernel: by platform and dtype, or as `kernels` says (config.kernels).

| implementation | of                | what it is                                           | chosen by "auto"         |
| -------------- | ----------------- | ---------------------------------------------------- | ------------------------ |
| portable       | both              | plain XLA, gradients by automatic differentiation    | attention elsewhere      |
| blocked        | attention         | XLA by blocks of queries, nothing above the diagonal | on CPUs (measured there) |
| cudnn          | attention         | NVIDIA's fused kernel, bfloat16 and float16          | on NVIDIA, these dtypes  |
| splash         | attention         | the TPU's fused kernel                               | on TPUs                  |
| analytic       | log-probabilities | plain XLA with a gradient of its own                 | everywhere               |
| pallas         | log-probabilities | our own kernel for the forward pass, GPU and TPU     | never: not measured      |

A name that is of one kernel leaves the other to "auto". cudnn and splash are what the field uses on these platforms;
they take rows that begin at position 0 and hold one sequence, so that left-padded rows are computed by "portable" and
packed suffixes, windows that are shorter than the rows and softcaps of scores by "blocked". "pallas" has no softcap of
logits. Attention over a cache or behind a shared prefix has one implementation.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from absl import logging
from jax.extend import backend

from lc_jax.kernels.attention import RowMask, ScoreScaling

KERNELS = ("auto", "portable", "blocked", "cudnn", "splash", "analytic", "pallas")
FUSED = ("cudnn", "splash")
CUDNN_DTYPES = ("bfloat16", "float16")
CUDNN_HEAD_DIM = 128  # at most, and a multiple of 8


def attention_implementation(kernels: str, dtype: jnp.dtype, head_dim: int) -> str:
    """Returns "portable", "blocked", "cudnn" or "splash".

    Raises:
      ValueError: `kernels` is "cudnn", which has no kernel for this dtype or head size.
    """
    fits = jnp.dtype(dtype).name in CUDNN_DTYPES and head_dim % 8 == 0 and head_dim <= CUDNN_HEAD_DIM
    if kernels == "cudnn" and not fits:
        raise ValueError(
            f"kernels='cudnn' takes heads of {CUDNN_HEAD_DIM} at most, in eights, in {' or '.join(CUDNN_DTYPES)}; here "
            f"they are of {head_dim} in {jnp.dtype(dtype).name}. Set config.kernels=auto, or compute_dtype=bfloat16."
        )
    if kernels in ("portable", "blocked", "cudnn", "splash"):
        return kernels
    platform = jax.default_backend()
    if platform == "gpu" and fits and "rocm" not in backend.get_backend().platform_version:
        return "cudnn"
    return {"cpu": "blocked", "tpu": "splash"}.get(platform, "portable")


def unfused_implementation(implementation: str, mask: RowMask, scaling: ScoreScaling) -> str:
    """Returns `implementation`, or what takes the place of a fused kernel that lacks something of mask or scaling."""
    if implementation not in FUSED:
        return implementation
    if mask.starts is not None:
        return "portable"
    if mask.window is not None or scaling.softcap is not None:
        logging.log_first_n(
            logging.INFO, "Windows and softcaps of scores are computed by 'blocked', not by %r", 1, implementation
        )
        return "blocked"
    return implementation if mask.segment_ids is None else "blocked"


def logprobs_implementation(kernels: str, softcap: float | None = None) -> str:
    """Returns "portable", "analytic" or "pallas"."""
    if kernels == "pallas" and softcap is not None:
        logging.log_first_n(logging.INFO, "Logits with a softcap are computed by 'analytic', not by 'pallas'", 1)
        return "analytic"
    return kernels if kernels in ("portable", "pallas") else "analytic"
