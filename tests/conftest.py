"""Eight simulated devices and one cache of compiled programs for every test; recorded numbers where there are any."""

import gc
import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from collections.abc import Iterator
from pathlib import Path

import jax
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHARED = ROOT.parent / "shared"

# Most of the suite's time is compiling, and many tests compile the same programs.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(ROOT / ".pytest_cache" / "jax"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")


# Linux allows a process 65,530 memory mappings by default. A compiled program takes several; XLA crashes at the limit.
MOST_MAPPINGS = 20_000


def num_mappings() -> int:
    """Returns the number of memory mappings of this process; 0 where the system does not say."""
    try:
        return Path("/proc/self/maps").read_bytes().count(b"\n")
    except OSError:
        return 0


@pytest.fixture(autouse=True, scope="module")
def compiler(request: pytest.FixtureRequest) -> Iterator[None]:
    """Compiles without most optimisations, which take more time than they save, but for files with OPTIMIZED = True.

    Processes that tests start do likewise. Compiled programs are dropped where they take too many memory mappings.
    """
    optimized = getattr(request.module, "OPTIMIZED", False)
    if optimized:
        jax.clear_caches()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JAX_DISABLE_MOST_OPTIMIZATIONS", "0" if optimized else "1")
        jax.config.update("jax_disable_most_optimizations", not optimized)
        yield
    if optimized or num_mappings() > MOST_MAPPINGS:
        jax.clear_caches()
        gc.collect()


@pytest.fixture(scope="session")
def golden() -> Path:
    """Numbers recorded from the published code, as far as they are part of this repository."""
    return ROOT / "tests" / "golden"


@pytest.fixture(scope="session")
def recordings() -> Path:
    """All that was recorded, models included; not part of this repository."""
    path = SHARED / "golden"
    if not path.is_dir():
        pytest.skip("no recorded models next to this checkout")
    return path


@pytest.fixture(scope="session")
def assets() -> Path:
    """Real data and tokenizers; not part of this repository."""
    path = SHARED / "assets"
    if not path.is_dir():
        pytest.skip("no asset folder next to this checkout")
    return path
