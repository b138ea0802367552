"""Eight simulated devices for every test; the folder of recorded numbers where there is one."""

import os

os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=8")
os.environ.setdefault("JAX_PLATFORMS", "cpu")

from pathlib import Path

import pytest

SHARED = Path(__file__).resolve().parents[1].parent / "shared"


@pytest.fixture(scope="session")
def golden() -> Path:
    """Numbers recorded from the published code; not part of this repository."""
    path = SHARED / "golden"
    if not path.is_dir():
        pytest.skip("no recorded numbers beside this checkout")
    return path


@pytest.fixture(scope="session")
def assets() -> Path:
    """Real data and tokenizers; not part of this repository."""
    path = SHARED / "assets"
    if not path.is_dir():
        pytest.skip("no asset folder beside this checkout")
    return path
