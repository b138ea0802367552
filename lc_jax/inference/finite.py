"""Numbers that are not finite are never results."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def check_finite(values: Sequence[float], model: str, where: str) -> None:
    """Rejects log-probabilities or rewards with NaN or infinities among them.

    Args:
      model: folder or hub name of what computed `values`.
      where: the row that they belong to.

    Raises:
      FloatingPointError: a value is not finite; the message names model, row and value.
    """
    wrong = np.flatnonzero(~np.isfinite(np.asarray(values, np.float64)))
    if wrong.size:
        raise FloatingPointError(
            f"{where}: {model} computes {values[wrong[0]]} at token {wrong[0]}: its numbers overflow. "
            "Try --config.precision.compute_dtype=float32, or another checkpoint."
        )
