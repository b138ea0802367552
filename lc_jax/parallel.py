"""The device mesh and the sharding of arrays over it.

Shape legend of the signatures: B batch, T tokens, S cache positions, D hidden size, V vocabulary, L layers, H query
heads, G key/value heads, K head size, N rows, P prompt tokens.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from absl import logging
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

Tree = TypeVar("Tree")
Item = TypeVar("Item")
AnyMesh = Mesh | AbstractMesh  # an abstract one is enough for shapes and shardings

nnx.use_eager_sharding(False)  # parameters are laid out once, by `shardings`, not while modules are built

AXES = ("data", "fsdp", "tensor")
# Logical axis of a parameter or activation -> mesh axis. None: replicated on every device.
RULES: dict[str, str | tuple[str, ...] | None] = {
    "batch": ("data", "fsdp"),
    "replica": "data",
    "embed": "fsdp",
    "vocab": "tensor",
    "heads": "tensor",
    "mlp": "tensor",
    "layers": None,
    "norm": None,
}


def start() -> None:
    """Joins the other processes of a multi-host run.

    The tasks of an `srun`, TPU pods and `mpirun` are recognised; elsewhere set LC_COORDINATOR (host:port),
    LC_NUM_PROCESSES and LC_PROCESS_ID. A single process needs none of this; an empty variable counts as unset.

    Raises:
      ValueError: a variable is missing or has no meaning, or the coordinator does not answer within a minute.
    """
    try:
        if any(_variable(name) for name in ("LC_COORDINATOR", "LC_NUM_PROCESSES", "LC_PROCESS_ID")):
            jax.distributed.initialize(*_explicit_processes(), initialization_timeout=60)
        elif _is_one_of_many():
            jax.distributed.initialize(initialization_timeout=60)
    except (RuntimeError, KeyError) as error:
        reason = f"{_variable('LC_COORDINATOR') or 'the coordinator'} ({' '.join(str(error).split())[:200]})"
        raise ValueError(f"The other hosts of this run were not found within a minute: {reason}.") from error


def _variable(name: str) -> str:
    return os.environ.get(name, "").strip()


def _count(name: str, least: int = 1) -> int:
    """Returns the integer in an environment variable."""
    text = _variable(name)
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise ValueError(f"{name}={text}: set this environment variable to a whole number of at least {least}.")
    return int(text)


def _explicit_processes() -> tuple[str, int, int]:
    """Returns the coordinator's address, the number of processes, and the number of this process."""
    names = ("LC_COORDINATOR", "LC_NUM_PROCESSES", "LC_PROCESS_ID")
    missing = [name for name in names if not _variable(name)]
    if missing:
        raise ValueError(f"A multi-host run needs {', '.join(names)}; {', '.join(missing)} is not set.")
    address, count, rank = _variable(names[0]), _count(names[1]), _count(names[2], least=0)
    if not re.fullmatch(r"([\w.-]+|\[[\da-fA-F:.]+\]):\d{1,5}", address):
        raise ValueError(f"LC_COORDINATOR={address}: give host:port of process 0, such as node1:1234.")
    if rank >= count:
        raise ValueError(f"LC_PROCESS_ID={rank}: with LC_NUM_PROCESSES={count} it is 0 to {count - 1}.")
    return address, count, rank


def _is_one_of_many() -> bool:
    """Returns whether `srun`, `mpirun` or a TPU pod started several processes, this one among them."""
    if _variable("SLURM_NTASKS") and _count("SLURM_NTASKS") > 1:
        # `srun` alone sets these; a shell inside an allocation (salloc, sbatch) has SLURM_NTASKS without them.
        names = ("SLURM_JOB_ID", "SLURM_STEP_NODELIST", "SLURM_PROCID", "SLURM_LOCALID")
        if all(map(_variable, names)) and (_variable("SLURM_STEP_NUM_TASKS") or "2") != "1":
            return True
        count = _count("SLURM_NTASKS")
        if _variable("SLURM_STEP_NUM_TASKS") == "1":
            logging.info("srun started one process in an allocation for %d (SLURM_NTASKS): it runs alone.", count)
        else:
            logging.warning("SLURM_NTASKS=%d, but srun did not start this process: it runs alone.", count)
    if _variable("OMPI_COMM_WORLD_SIZE") and _count("OMPI_COMM_WORLD_SIZE") > 1:
        if not all(map(_variable, ("OMPI_MCA_orte_hnp_uri", "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_LOCAL_RANK"))):
            raise ValueError(
                "OMPI_COMM_WORLD_SIZE is set, but not what Open MPI 4 sets with it: start with its mpirun, or set "
                "LC_COORDINATOR, LC_NUM_PROCESSES and LC_PROCESS_ID."
            )
        return True
    return _variable("TPU_WORKER_HOSTNAMES").strip(",").count(",") > 0


def use_compilation_cache(folder: str, max_bytes: int = 5_000_000_000) -> None:
    """Configures JAX's compilation cache in `folder`; beyond `max_bytes`, the least recently used programs are deleted.

    On CPUs each processor type has its own subfolder, since compiled programs contain its instructions. With an empty
    name there is no cache; JAX_COMPILATION_CACHE_DIR has precedence. A folder that cannot be written is a warning.
    """
    if not folder or os.environ.get("JAX_COMPILATION_CACHE_DIR") is not None:
        return
    path = Path(folder)
    try:
        is_cpu = jax.default_backend() == "cpu"
    except (AssertionError, RuntimeError):  # no such device: `make_mesh` says so
        return
    if is_cpu:
        path /= f"cpu-{_processor()}"
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        logging.warning("Compiled programs are not kept (%s); set --config.compilation_cache", error)
        return
    jax.config.update("jax_compilation_cache_max_size", max_bytes)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
    jax.config.update("jax_compilation_cache_dir", str(path))


def _processor() -> str:
    """Returns a hash of this processor's instruction set."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        features = platform.processor()
    return hashlib.sha256(f"{platform.machine()} {' '.join(sorted(features.split()))}".encode()).hexdigest()[:12]


def mesh_shape(num_devices: int, data: int = 1, fsdp: int = -1, tensor: int = 1) -> dict[str, int]:
    """Returns the number of devices along each axis of AXES; -1 (at most once) stands for all remaining devices.

    Raises:
      ValueError: the sizes do not multiply to the number of devices.
    """
    sizes = [data, fsdp, tensor]
    if -1 in sizes:
        sizes[sizes.index(-1)] = max(1, num_devices // abs(int(np.prod(sizes))))
    if min(sizes) < 1 or np.prod(sizes) != num_devices:
        raise ValueError(
            f"Mesh data={data}, fsdp={fsdp}, tensor={tensor} does not fit {num_devices} devices: their product must be "
            "that number, with at most one -1 (config.mesh)."
        )
    return dict(zip(AXES, sizes, strict=True))


def make_mesh(data: int = 1, fsdp: int = -1, tensor: int = 1) -> Mesh:
    """Returns a mesh over all devices of all hosts; sizes as in `mesh_shape`.

    Raises:
      ValueError: the sizes do not fit the devices, or JAX_PLATFORMS names devices that are not there.
    """
    try:
        num_devices = jax.device_count()
    except (AssertionError, RuntimeError) as error:  # JAX has no backend of that name, or none that starts
        platforms = f"JAX_PLATFORMS={_variable('JAX_PLATFORMS')}: " if _variable("JAX_PLATFORMS") else ""
        reason = f" ({' '.join(str(error).split())[:300]})" if str(error) else ""
        raise ValueError(
            f"{platforms}JAX has no such device{reason}. Unset JAX_PLATFORMS, or install the jax of this accelerator, "
            'such as pip install ".[cuda12]", ".[cuda13]" or ".[tpu]".'
        ) from error
    shape = mesh_shape(num_devices, data, fsdp, tensor)
    return jax.make_mesh(tuple(shape.values()), AXES, axis_types=(AxisType.Auto,) * 3)


def abstract_mesh(num_devices: int, data: int = 1, fsdp: int = -1, tensor: int = 1) -> AbstractMesh:
    """Returns a mesh without devices, for shapes and shardings."""
    shape = mesh_shape(num_devices, data, fsdp, tensor)
    return AbstractMesh(tuple(shape.values()), AXES, axis_types=(AxisType.Auto,) * 3)


def partition_spec(
    shape: tuple[int, ...], axes: tuple[str | None, ...], mesh: AnyMesh, replicated: str = ""
) -> PartitionSpec:
    """Returns the partition of an array with these logical axes; dimensions that their mesh axis does not divide are
    replicated.

    Args:
      replicated: a logical axis that is replicated too.
    """
    parts: list[str | tuple[str, ...] | None] = []
    for size, axis in zip(shape, axes, strict=True):
        target = RULES[axis] if axis and axis != replicated else None
        names = (target,) if isinstance(target, str) else target or ()
        parts.append(target if names and size % np.prod([mesh.shape[n] for n in names]) == 0 else None)
    return PartitionSpec(*parts)


def shardings(params: Any, mesh: AnyMesh, replicated: str = "") -> Any:
    """Returns a tree of shardings like `params`, an nnx.State or a tree with some in it (abstract or not).

    They follow from the logical axes in each parameter's metadata.

    Args:
      replicated: as in `partition_spec`.
    """

    def place(variable: Any) -> Any:
        value = variable.get_raw_value()
        axes = variable.get_metadata().get("out_sharding") or (None,) * value.ndim
        return variable.replace(NamedSharding(mesh, partition_spec(value.shape, axes, mesh, replicated)))

    return jax.tree.map(place, params, is_leaf=lambda x: isinstance(x, nnx.Variable))


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Constrains the sharding of an activation on the current mesh (`jax.set_mesh`); no-op on a single device."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, partition_spec(x.shape, axes, mesh))


def per_device(function: Callable[..., jax.Array], sizes: tuple[int, int]) -> Callable[..., jax.Array]:
    """Returns `function` of arrays [B T H K] and, last, a tree of arrays [B ...], run by each device of the mesh on its
    own rows and heads: for kernels that the compiler cannot divide.

    Args:
      sizes: number of rows, and of the heads of keys and values.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function
    rows, heads = partition_spec(sizes, ("batch", "heads"), mesh)
    split = PartitionSpec(rows, None, heads, None)

    def call(*args: Any) -> jax.Array:
        specs = (*(split,) * (len(args) - 1), PartitionSpec(rows))
        return jax.shard_map(function, in_specs=specs, out_specs=split, check_vma=False)(*args)

    return call


def put_batch(tree: Tree) -> Tree:
    """Shards host arrays (the same full batch on every host) by their first dimension over the current mesh."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return jax.tree.map(jax.numpy.asarray, tree)

    def put(x: Any) -> jax.Array:
        sharding = NamedSharding(mesh, partition_spec(x.shape, ("batch", *(None,) * (x.ndim - 1)), mesh))
        if isinstance(x, jax.Array):
            return jax.device_put(x, sharding)
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(put, tree)


def rows_per_device(count: int, mesh: AnyMesh | None = None) -> int:
    """Returns the rows of a batch on one device of a mesh (default: the current): all where it does not divide them."""
    mesh = jax.sharding.get_mesh() if mesh is None else mesh
    parts = 1 if mesh.empty else mesh.shape["data"] * mesh.shape["fsdp"]
    return count if count % parts else count // parts


def prefetch(items: Iterable[Item]) -> Iterator[Item]:
    """Yields each item after the next one was requested, so that the device works while the host handles a result.

    If the next item raises an error, the current item is yielded first.
    """
    waiting: list[Item] = []
    try:
        for item in items:
            ready, waiting = waiting, [item]
            yield from ready
    except Exception:
        yield from waiting
        raise
    yield from waiting


def to_memory_kind(tree: Tree, kind: str | None) -> Tree:
    """Moves arrays to another memory kind ("pinned_host", or None for the device's own) with the same sharding."""
    return jax.tree.map(lambda x: jax.device_put(x, x.sharding.with_memory_kind(kind)), tree)


def to_host(x: jax.Array) -> np.ndarray:
    """Gathers the full array as numpy on every host."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)
