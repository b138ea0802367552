"""Sizes, timer, roofline of the machine, table and JSON file of all benchmarks.

Each benchmark is `python -m benchmarks.<name>`.

  (nothing)      small: seconds on two CPU cores, so that CI can run it
  --full         the miniature's models on a CPU, Llama 2 7B in bfloat16 on an accelerator
  --dry-run      the accelerator's settings (bfloat16, rematerialisation) around a tiny model
  --output DIR   where <name>-<device>.json goes (default benchmarks/results with --full, else runs/benchmarks)

The floor is the time at the machine's own rates (roofline): those of one large matrix product and one large copy, timed
in the same run. The share is the fraction of the roofline; arrays that fit into a cache can exceed it.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import platform
import re
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from lc_jax.text_table import table

ROOT = Path(__file__).resolve().parents[1]
MIN_SECONDS = 0.02  # a timed turn is made at least about this long
VERSIONS = ("jax", "jaxlib", "flax", "optax", "numpy", "torch", "transformers", "peft", "trl")


@dataclasses.dataclass(frozen=True)
class Size:
    """Amount of work of a benchmark."""

    name: str
    model: str  # a preset of models/registry.py
    dtype: str  # of parameters and arithmetic
    remat: str
    batch: int  # sequences at a time
    prompt: int  # tokens
    response: int  # tokens
    length: int  # tokens of a training sequence
    repeats: int  # timed calls after the first

    @property
    def precision(self) -> dict[str, str]:
        """The fields of models.transformer.Config."""
        return {"param_dtype": self.dtype, "compute_dtype": self.dtype, "remat": self.remat}


SMALL = Size("small", "tiny-llama", "float32", "none", 8, 16, 16, 32, 2)
MINIATURE = Size("miniature", "miniature", "float32", "none", 64, 32, 64, 128, 15)
DRY_RUN = Size("dry run", "tiny-llama", "bfloat16", "full", 8, 16, 16, 32, 2)
LARGE = Size("7B", "llama-2-7b", "bfloat16", "full", 128, 128, 300, 1024, 3)


def arguments(description: str, argv: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line; `size` is the Size that it asks for."""
    parser = argparse.ArgumentParser(description=description.splitlines()[0])
    parser.add_argument("--full", action="store_true")
    parser.add_argument("--dry-run", action="store_true")
    parser.add_argument("--output", type=Path)
    args = parser.parse_args(argv)
    accelerated = jax.default_backend() != "cpu"
    args.size = (LARGE if accelerated else MINIATURE) if args.full else DRY_RUN if args.dry_run else SMALL
    args.output = args.output or (ROOT / "benchmarks" / "results" if args.full else ROOT / "runs" / "benchmarks")
    return args


def measure(
    functions: Mapping[str, Callable[[], Any] | None],
    repeats: int,
    pick: Callable[[list[float]], float] = statistics.median,
) -> dict[str, float | None]:
    """Seconds of each function, which must not return before its work is done; None where there is none.

    The functions take turns, so that whatever else the machine does falls on all of them. Short ones are called several
    times a turn.
    """
    there = {name: function for name, function in functions.items() if function is not None}
    calls = {}
    for name, function in there.items():
        function()  # compiles
        calls[name] = max(1, min(100, int(MIN_SECONDS / _seconds(function, 1))))
    seconds: dict[str, list[float]] = {name: [] for name in there}
    for _ in range(repeats):
        for name, function in there.items():
            seconds[name].append(_seconds(function, calls[name]))
    return {name: pick(seconds[name]) if name in seconds else None for name in functions}


def _seconds(function: Callable[[], Any], calls: int) -> float:
    started = time.perf_counter()
    for _ in range(calls):
        function()
    return (time.perf_counter() - started) / calls


@dataclasses.dataclass(frozen=True)
class Machine:
    """Roofline of one device: its rates on large arrays, timed in the same run as the benchmark."""

    flops: float  # per second, of one large matrix product in the benchmark's dtype
    bandwidth: float  # bytes per second, of reading and writing one large array

    @classmethod
    def measured(cls, size: Size, multiply: Callable[[Any, Any], Any] = jnp.matmul) -> Machine:
        """Times both."""
        large = jax.default_backend() != "cpu"
        side, count = (8192, 2**29) if large else (1024, 2**24)
        matrix = jnp.full((side, side), 0.5, size.dtype)
        array = jnp.ones(count, jnp.float32)
        product, copy = jax.jit(multiply), jax.jit(lambda x: x + 1.0)
        calls = {
            "product": lambda: product(matrix, matrix).block_until_ready(),
            "copy": lambda: copy(array).block_until_ready(),
        }
        seconds: Any = measure(calls, 3 * size.repeats, min)
        return cls(2.0 * side**3 / seconds["product"], 8.0 * count / seconds["copy"])

    def floor(self, flops: float, num_bytes: float = 0.0) -> float:
        """Returns the least seconds for `flops` operations and transfers of `num_bytes`, done concurrently."""
        return max(flops / self.flops, num_bytes / self.bandwidth)


@dataclasses.dataclass(frozen=True)
class Row:
    """One measurement."""

    name: str
    seconds: float
    peer: str = ""  # name of the peer
    peer_seconds: float | None = None
    floor_seconds: float | None = None
    notes: Mapping[str, Any] = dataclasses.field(default_factory=dict)  # further figures, for the JSON

    def record(self) -> dict[str, Any]:
        """Returns the row of the JSON file: `ratio` is the speed-up, `fraction_of_roofline` the floor over the time."""
        ratio = None if self.peer_seconds is None else self.peer_seconds / self.seconds
        share = None if self.floor_seconds is None else self.floor_seconds / self.seconds
        return dataclasses.asdict(self) | {"ratio": ratio, "fraction_of_roofline": share}


def versions() -> dict[str, str]:
    """Returns the versions of Python and of installed packages."""
    numbers = {"python": platform.python_version()}
    for name in VERSIONS:
        try:
            numbers[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return numbers


def hardware() -> dict[str, Any]:
    """Returns the device, its memory if known, and the host."""
    device = jax.devices()[0]
    cpu = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.is_file() and (match := re.search(r"model name\s*:\s*(.+)", info.read_text())):
        cpu = match[1]
    stats = device.memory_stats() or {}
    memory = stats.get("bytes_limit")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {"device": device.device_kind, "devices": jax.device_count(), "memory": memory, "cpu": cpu, "cores": cores}


def _allocator() -> str:
    """Returns the settings of the C library's allocator, which affect both sides on a CPU."""
    tunables = os.environ.get("GLIBC_TUNABLES")
    return f"GLIBC_TUNABLES={tunables} " if tunables else ""


def finish(name: str, args: argparse.Namespace, machine: Machine | None, rows: Sequence[Row]) -> dict[str, Any]:
    """Prints the table, writes the JSON file, and returns its contents."""
    records = [row.record() for row in rows]
    result = {
        "benchmark": name,
        "command": _allocator() + f"python -m benchmarks.{name}" + " --full" * args.full + " --dry-run" * args.dry_run,
        "date": datetime.date.today().isoformat(),
        "hardware": hardware(),
        "versions": versions(),
        "size": dataclasses.asdict(args.size),
        "machine": None if machine is None else dataclasses.asdict(machine),
        "rows": records,
    }
    print(f"\n{name}, {args.size.name}, on {result['hardware']['device']}")
    if machine is not None:
        print(f"roofline: {machine.flops / 1e9:.4g} GFLOP/s, {machine.bandwidth / 1e9:.4g} GB/s, measured in this run")
    titles = ("", "ms", "peer", "peer ms", "ratio", "roofline ms", "of roofline")
    lines = [titles, *(_cells(record) for record in records)]
    print(table(lines))
    for record in records:
        if record["notes"]:
            print(f"  {record['name']}: " + ", ".join(f"{k} {_short(v)}" for k, v in record["notes"].items()))
    device = re.sub(r"[^a-z0-9]+", "-", str(result["hardware"]["device"]).lower()).strip("-")
    args.output.mkdir(parents=True, exist_ok=True)
    path = args.output / f"{name}-{device}.json"
    path.write_text(json.dumps(result, indent=1) + "\n")
    sys.stdout.flush()
    return result


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _cells(record: Mapping[str, Any]) -> tuple[str, ...]:
    def milliseconds(key: str) -> str:
        return "-" if record[key] is None else f"{record[key] * 1e3:.4g}"

    ratio = "-" if record["ratio"] is None else f"{record['ratio']:.2f}x"
    share = "-" if record["fraction_of_roofline"] is None else f"{record['fraction_of_roofline']:.1%}"
    peer = record["peer"] or "-"
    return (record["name"], milliseconds("seconds"), peer, milliseconds("peer_seconds"), ratio,
            milliseconds("floor_seconds"), share)  # fmt: skip
