"""Time of 95% intervals of the calibration error: all resamples at once against a plain loop, in one run.

python -m benchmarks.bootstrap                  11,313 records, 10,000 resamples, as in the paper; one core
python -m benchmarks.bootstrap --rows=1000      smaller

Confidences are all distinct, which is the slowest case. The loop takes the published code's way, row by row, on a
hundredth of the resamples, and its time is multiplied.
"""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import time

import numpy as np

from lc_jax.evaluation import intervals, metrics

SHARE = 100  # of the loop's resamples, one in so many is timed


def published_ece(confidence: np.ndarray, correct: np.ndarray, num_bins: int = 20) -> float:
    """ECE as a plain program computes it: sort pairs, cut, average."""
    pairs = sorted(zip(confidence, correct, strict=True), key=lambda pair: pair[0])
    size = len(pairs) // num_bins
    gaps = []
    for number in range(num_bins):
        inside = pairs[number * size : (number + 1) * size]
        gaps.append(abs(sum(c for c, _ in inside) - sum(right for _, right in inside)) / size)
    return sum(gaps) / num_bins


def main(rows: int, resamples: int) -> None:
    """Prints both times, in seconds of one core, and both intervals."""
    rng = np.random.default_rng(0)
    confidence = rng.random(rows)
    correct = rng.random(rows) < confidence**1.5

    start = time.process_time()
    at_once = intervals.bootstrap(confidence, correct, names=["ece"], num_resamples=resamples)["ece"]
    fast = time.process_time() - start

    start = time.process_time()
    few = max(1, resamples // SHARE)
    samples = [rng.integers(0, rows, rows) for _ in range(few)]
    loop = np.percentile([published_ece(confidence[rows], correct[rows]) for rows in samples], [2.5, 97.5])
    slow = (time.process_time() - start) * resamples / few

    print(f"{rows:,} records, {resamples:,} resamples, ECE {metrics.ece(confidence, correct):.4f}")
    print(f"at once     {fast:8.1f} s   {at_once[0]:.4f} to {at_once[1]:.4f}")
    print(f"plain loop  {slow:8.1f} s   {loop[0]:.4f} to {loop[1]:.4f}   (from {few} resamples)")
    print(f"{slow / fast:.0f} times as fast")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=11_313)
    parser.add_argument("--resamples", type=int, default=10_000)
    args = parser.parse_args()
    main(args.rows, args.resamples)
