"""Large checkpoints on a small machine: what is converted, what comes back, and how much memory it takes.

  python -m benchmarks.convert                    2 billion bfloat16 parameters into larger files and back within 6 GB
  python -m benchmarks.convert --layers=1         the same, 0.5 billion
  python -m benchmarks.convert --difference       base + difference at the width of Llama 2 7B

The files are of Llama 2's shape, random and sharded. Every conversion runs in a process of its own; memory is what it
has allocated (RssAnon) at its peak. As root on a machine with memory control groups the limit is enforced as well,
cached file pages included: beyond it the kernel kills the process.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from lc_jax.models.folders import write_configs
from lc_jax.models.params import tensor_specs
from lc_jax.models.registry import abstract_model, config_from_hf, config_to_hf, from_preset
from lc_jax.models.tensors import Tensors, write

GROUPS = Path("/sys/fs/cgroup/memory")  # control groups, version 1
SHARD = 1_000_000_000


def make(folder: Path, layers: int, dtype: str, seed: int) -> int:
    """Writes a random checkpoint as wide as Llama 2 7B, with so many layers. Returns its number of parameters."""
    shape = config_to_hf(from_preset("llama-2-7b", param_dtype=dtype)) | {"num_hidden_layers": layers}
    model = abstract_model(config_from_hf(shape, param_dtype=dtype))
    specs, rng = tensor_specs(model, dtype), np.random.default_rng(seed)
    folder.mkdir()

    def values() -> Iterator[tuple[str, np.ndarray]]:
        for spec in specs:  # finite in bfloat16, float16 and float32, and no two alike
            yield spec.key, (rng.standard_normal(spec.shape, np.float32) / 64).astype(dtype)

    write(folder, specs, values(), SHARD)
    write_configs(folder, model, dtype, None)
    return sum(int(np.prod(spec.shape)) for spec in specs)


@contextlib.contextmanager
def limited(gigabytes: float) -> Iterator[Path | None]:
    """A control group of so much memory, or None where there are none."""
    group = GROUPS / f"lc_jax_{os.getpid()}"
    try:
        group.mkdir()
    except OSError:
        yield None
        return
    try:
        (group / "memory.limit_in_bytes").write_text(str(int(gigabytes * 1e9)))
        yield group
    finally:
        group.rmdir()


def run(name: str, gigabytes: float, **settings: object) -> None:
    """Converts in a process of its own, and prints its time and peak.

    Raises:
      MemoryError: it needed more than the limit.
    """
    flags = [f"--config.{key}={value}" for key, value in settings.items()]
    command = [sys.executable, "-m", "lc_jax.main", "--config=configs/convert.py", *flags]
    started, peak = time.perf_counter(), 0
    with limited(gigabytes) as group:
        if group:  # the shell joins the group, then becomes the conversion
            command = ["sh", "-c", 'echo $$ >"$0" && exec "$@"', f"{group}/cgroup.procs", *command]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        while process.poll() is None:
            peak = max(peak, _allocated(process.pid))
            time.sleep(0.02)
    seconds = time.perf_counter() - started
    enforcement = "enforced" if group else "not enforced here"
    print(f"{name}: {seconds:.0f} s, {peak / 1e9:.2f} GB at most (limit {gigabytes:g} GB, {enforcement})", flush=True)
    assert process.stderr is not None
    if process.returncode:
        raise MemoryError(f"{name} ended with {process.returncode}: {process.stderr.read()[-1000:]}")
    if peak > gigabytes * 1e9:
        raise MemoryError(f"{name} needed {peak / 1e9:.2f} GB of {gigabytes:g}.")


def _allocated(pid: int) -> int:
    """Bytes that a process has allocated and uses, without mapped files."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith("RssAnon:"):
                return 1024 * int(line.split()[1])
    return 0


def compare(one: Path, other: Path) -> int:
    """Number of tensors, when all are equal byte for byte.

    Raises:
      ValueError: names the first tensor that differs.
    """
    a, b = Tensors(one), Tensors(other)
    if set(a.names()) != set(b.names()):
        raise ValueError(f"{other} holds other tensors than {one}.")
    for key in a.names():
        x, y = a.slice(key)[...], b.slice(key)[...]
        if x.dtype != y.dtype or not np.array_equal(x.view(np.uint8), y.view(np.uint8)):
            raise ValueError(f"{key} came back changed.")
    return len(a.names())


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one of the two measurements."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--layers", type=int, default=9, help="9 of Llama 2 7B's are 2 billion parameters")
    parser.add_argument("--gigabytes", type=float, default=6.0)
    parser.add_argument("--difference", action="store_true")
    parser.add_argument("--folder", help="where the files go (default: the system's temporary folder)")
    args = parser.parse_args(argv)
    root = Path(tempfile.mkdtemp(dir=args.folder))
    try:
        base = root / "base"
        count = make(base, args.layers, "float16" if args.difference else "bfloat16", seed=0)
        print(f"{count / 1e9:.2f} billion parameters in {len(list(base.glob('*.safetensors')))} files", flush=True)
        shard = SHARD / 1e9
        if args.difference:
            make(root / "tuned", args.layers, "bfloat16", seed=1)
            difference, out = root / "difference", root / "out"
            names = dict(base=base, shard_gigabytes=shard)
            run(
                "tuned - base",
                args.gigabytes,
                source=root / "tuned",
                destination=difference,
                make_difference=True,
                **names,
            )
            run("base + difference", args.gigabytes, source=difference, destination=out, **names)
            same = compare(root / "tuned", out)
        else:
            large, back = root / "large", root / "back"
            run("larger files", args.gigabytes, source=base, destination=large, shard_gigabytes=4 * shard)
            run("files as before", args.gigabytes, source=large, destination=back, shard_gigabytes=shard)
            same = compare(base, back)
        print(f"{same} tensors came back byte for byte", flush=True)
    finally:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
