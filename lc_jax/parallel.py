"""The device mesh and where everything lies on it.

Shape legend of the signatures: B batch, T tokens, S cache slots, D hidden size, V vocabulary, L layers, H query heads,
G key/value heads, K head size, N rows, P prompt tokens.
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
# Logical axis of a parameter or activation -> mesh axis. None: whole on every device.
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
    """The whole number in an environment variable."""
    text = _variable(name)
    if not (text.isascii() and text.isdigit() and int(text) >= least):
        raise ValueError(f"{name}={text}: set this environment variable to a whole number of at least {least}.")
    return int(text)


def _explicit_processes() -> tuple[str, int, int]:
    """Address of the coordinator, number of processes, and which of them this one is."""
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
    """Whether `srun`, `mpirun` or a TPU pod started several processes, of which this is one."""
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


def keep_compiled(folder: str, max_bytes: int = 5_000_000_000) -> None:
    """Keeps compiled programs in `folder` for later runs, the least recently used ones deleted beyond `max_bytes`.

    On CPUs the programs of each kind of processor have a folder of their own: they hold its instructions. With an empty
    name nothing is kept; JAX_COMPILATION_CACHE_DIR has precedence. A folder that cannot be written is a warning.
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
    """A short name of the instructions that this machine's processor has."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        features = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        features = platform.processor()
    return hashlib.sha256(f"{platform.machine()} {' '.join(sorted(features.split()))}".encode()).hexdigest()[:12]


def mesh_shape(num_devices: int, data: int = 1, fsdp: int = -1, tensor: int = 1) -> dict[str, int]:
    """Devices along each axis of AXES; -1 (at most once) takes what the others leave.

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
    """A mesh over all devices of all hosts; sizes as in `mesh_shape`.

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


def planned_mesh(num_devices: int, data: int = 1, fsdp: int = -1, tensor: int = 1) -> AbstractMesh:
    """A mesh over devices that are not there."""
    shape = mesh_shape(num_devices, data, fsdp, tensor)
    return AbstractMesh(tuple(shape.values()), AXES, axis_types=(AxisType.Auto,) * 3)


def spec(shape: tuple[int, ...], axes: tuple[str | None, ...], mesh: AnyMesh, whole: str = "") -> PartitionSpec:
    """Where an array with these logical axes lies; a dimension that the mesh axis does not divide stays whole.

    Args:
      whole: a logical axis that is not split either.
    """
    parts: list[str | tuple[str, ...] | None] = []
    for size, axis in zip(shape, axes, strict=True):
        target = RULES[axis] if axis and axis != whole else None
        names = (target,) if isinstance(target, str) else target or ()
        parts.append(target if names and size % np.prod([mesh.shape[n] for n in names]) == 0 else None)
    return PartitionSpec(*parts)


def shardings(params: nnx.State, mesh: AnyMesh, whole: str = "") -> Any:
    """A tree like `params` (abstract or not) of shardings, from the logical axes that each parameter carries.

    Args:
      whole: as in `spec`.
    """

    def place(variable: Any) -> Any:
        value = variable.get_raw_value()
        axes = variable.get_metadata().get("out_sharding") or (None,) * value.ndim
        return variable.replace(NamedSharding(mesh, spec(value.shape, axes, mesh, whole)))

    return jax.tree.map(place, params, is_leaf=lambda x: isinstance(x, nnx.Variable))


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Pins an activation to the mesh in force (`jax.set_mesh`); without one, or on a single device, nothing happens."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return x
    return jax.lax.with_sharding_constraint(x, spec(x.shape, axes, mesh))


def per_device(function: Callable[..., jax.Array], sizes: tuple[int, int]) -> Callable[..., jax.Array]:
    """`function` of arrays [B T H K] (and spans [B 2] or None last), run by each device of the mesh on its own rows and
    heads: for kernels that the compiler cannot divide.

    Args:
      sizes: rows, and the heads of which the mesh must have whole ones (those of keys and values).
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return function
    rows, heads = spec(sizes, ("batch", "heads"), mesh)
    whole = PartitionSpec(rows, None, heads, None)

    def call(*args: jax.Array | None) -> jax.Array:
        specs = tuple(None if x is None else whole if x.ndim == 4 else PartitionSpec(rows) for x in args)
        return jax.shard_map(function, in_specs=specs, out_specs=whole, check_vma=False)(*args)

    return call


def put_batch(tree: Tree) -> Tree:
    """Host arrays (the same whole batch on every host) laid out by their first dimension over the mesh in force."""
    mesh = jax.sharding.get_mesh()
    if mesh.empty:
        return jax.tree.map(jax.numpy.asarray, tree)

    def put(x: Any) -> jax.Array:
        sharding = NamedSharding(mesh, spec(x.shape, ("batch", *(None,) * (x.ndim - 1)), mesh))
        if isinstance(x, jax.Array):
            return jax.device_put(x, sharding)
        x = np.asarray(x)
        return jax.make_array_from_callback(x.shape, sharding, lambda index: x[index])

    return jax.tree.map(put, tree)


def one_ahead(items: Iterable[Item]) -> Iterator[Item]:
    """Each item once the next one is there: a device has work while the host makes something of what it did.

    An item is not lost where the next one is an error: that is raised behind it.
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


def into_memory(tree: Tree, kind: str | None) -> Tree:
    """The arrays in another kind of memory ("pinned_host" is the host's, None the device's own), laid out as before."""
    return jax.tree.map(lambda x: jax.device_put(x, x.sharding.with_memory_kind(kind)), tree)


def to_host(x: jax.Array) -> np.ndarray:
    """The whole array as numpy, on every host."""
    if isinstance(x, jax.Array) and not x.is_fully_addressable:
        return np.asarray(multihost_utils.process_allgather(x, tiled=True))
    return np.asarray(x)
