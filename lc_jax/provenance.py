"""Provenance of results: fingerprints of inputs, changes of settings, the code's version, and a record of every run.

A run's record is a file next to its output, with config, command, versions, commit and devices.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import importlib.metadata
import json
import platform
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

PACKAGES = (
    "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "transformers", "tokenizers", "safetensors", "numpy",
    "datasets", "anthropic", "openai", "sentence-transformers",
)  # fmt: skip
COMMAND = ("python", "-m", "lc_jax.main")
# Keys of vendors (with a digit, which tells them from names of folders), tokens, and passwords in addresses.
_SECRET = re.compile(
    r"()\b(?:(?:sk|pk|rk)[-_]|hf_|gh[po]_|github_pat_|xox[abp]-|AKIA|AIza)(?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{16,}"
    r"|(://)[^/@\s]+(?=@)|([?&](?:key|token|api[_-]?key)=)[^&\s]+"
)
# Settings with these values, also in JSON, are empty; one of _OFF that another version lacks is no change either.
_NOTHING: tuple[Any, ...] = (None, "", "null", '""')
_OFF: tuple[Any, ...] = (*_NOTHING, False, [], "false", "0", "0.0", "[]", "{}")


def fingerprint(value: Any) -> str:
    """Returns the first 32 hexadecimal digits of the SHA-256 of `value` in JSON."""
    text = json.dumps(value, sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def describe_changes(before: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """Describes the settings that differ; "" if none do.

    A setting that one side lacks, since it is of another version, changes nothing where it is empty, 0 or false on the
    other. Values may be written in JSON; settings inside settings have dotted names.
    """
    old, new = dict(_leaves("", before)), dict(_leaves("", now))
    parts = []
    for name in {**old, **new}:
        values = [side[name] for side in (old, new) if name in side]
        is_new = len(values) == 1
        if all(value in (_OFF if is_new else _NOTHING) for value in values) or (not is_new and values[0] == values[1]):
            continue
        was, value = (repr(side[name]) if name in side else "no setting" for side in (old, new))
        parts.append(f"{name} was {was}, is {value}")
    return "; ".join(parts)


def _leaves(prefix: str, value: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for name, item in value.items():
        if isinstance(item, Mapping):
            yield from _leaves(f"{prefix}{name}.", item)
        else:
            yield prefix + name, item


def now() -> str:
    """Returns the time in UTC, to the second, as ISO 8601."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds")


@functools.cache
def commit() -> str:
    """Returns the commit of the code, with "-dirty" where files were changed; "" outside a git checkout."""
    folder = Path(__file__).resolve().parents[1]
    if not (folder / ".git").exists():
        return ""
    command = ["git", "-C", str(folder), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return ""


def code_version() -> str:
    """Returns the package's version, and its commit where it is run from a git checkout."""
    version = versions(["lc_jax"]).get("lc_jax", "unknown")
    return f"{version}+{commit()}" if commit() else version


def versions(names: Sequence[str]) -> dict[str, str]:
    """Returns the versions of the packages that are installed, by name; none of them is imported."""
    installed = {}
    for name in names:
        try:
            installed[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return installed


def command_line(file: str, values: Mapping[str, Any]) -> str:
    """Returns the command that runs a config file (FILE[:MODE]) with these settings, as a shell takes it."""
    return shlex.join([*COMMAND, f"--config={file}", *(f"--config.{name}={value}" for name, value in values.items())])


def without_secrets(value: Any) -> Any:
    """Returns `value` with everything in its texts that looks like a key, a token or a password replaced by "..."."""
    if isinstance(value, str):
        return _SECRET.sub(lambda match: f"{match[1] or match[2] or match[3] or ''}...", value)
    if isinstance(value, Mapping):
        return {name: without_secrets(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [without_secrets(item) for item in value]
    return value


class RunRecord:
    """A file that lists the runs that made an output, the newest last; `finish` completes the entry of this run.

    Args:
      path: the file; entries of former runs are preserved.
      settings: the effective config, by dotted name.
      command: the arguments of the command line.
      devices: what the run computes on; empty without devices.
    """

    def __init__(
        self, path: Path, settings: Mapping[str, Any], command: Sequence[str], devices: Mapping[str, Any]
    ) -> None:
        self.path = path
        self._runs = _load(path)
        self._created = [folder for folder in (path.parent, *path.parent.parents) if not folder.exists()]
        entry = {
            "started": now(),
            "command": [*COMMAND, *command],
            "code": {"version": code_version(), "commit": commit()},
            "python": platform.python_version(),
            "platform": f"{platform.system()} {platform.machine()}",
            "packages": versions(PACKAGES),
            "devices": dict(devices),
            "config": dict(settings),
        }
        self._entry = json.loads(json.dumps(without_secrets(entry), default=str))
        if self._runs:
            before = self._runs[-1].get("config", {})
            config = self._entry["config"]
            changed = {
                name: [before.get(name), config.get(name)]
                for name in {**before, **config}
                if before.get(name) != config.get(name)
            }
            self._entry["changed"] = changed  # setting: [in the run before, in this one]

    def write(self) -> None:
        """Writes the file, all of it or nothing."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_name(self.path.name + ".tmp")
        text = json.dumps({"runs": [*self._runs, self._entry]}, indent=1, ensure_ascii=False)
        temporary.write_text(text + "\n", encoding="utf-8")
        temporary.replace(self.path)

    def finish(self, outcome: str, details: str = "") -> None:
        """Writes how the run ended ("done", "interrupted", "exit code 75" or its error), with a traceback."""
        self._entry |= {"finished": now(), "outcome": without_secrets(outcome)}
        if details:
            self._entry["traceback"] = without_secrets(details.splitlines())
        self.write()

    def withdraw(self) -> None:
        """Removes the file again where this first run left nothing else, and the folders that were made for it."""
        if self._runs or not self.path.parent.is_dir():
            return
        output = self.path.name.removesuffix(".run.json")  # "run.json" itself describes its whole folder
        files = (file for file in self.path.parent.iterdir() if file != self.path)
        if any(output == "run.json" or file.name.startswith(output) for file in files):
            return
        self.path.unlink(missing_ok=True)
        for folder in self._created:
            if not folder.is_dir() or any(folder.iterdir()):
                return
            folder.rmdir()


def _load(path: Path) -> list[dict[str, Any]]:
    """Returns the entries of former runs; none if the file cannot be read."""
    try:
        runs = json.loads(path.read_text(encoding="utf-8"))["runs"]
    except (OSError, ValueError, KeyError, TypeError):
        return []
    return [run for run in runs if isinstance(run, dict)] if isinstance(runs, list) else []
