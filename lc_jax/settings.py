"""Settings from the command line: a config file with its mode, and overrides such as --config.ppo.kl_coef=0.05.

A value has the type of the config's own: whole numbers, numbers, true or false, text, lists as "a,b" or "(1, 2)". Where
the config holds text or nothing, an empty value, or None, means none. Text may begin with ~ (the home folder) or file:///.
"""

from __future__ import annotations

import ast
import difflib
import importlib.util
import inspect
import math
import os
import re
import sys
import traceback
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from lc_jax.preflight import Problems, check_all

_INSTALLED = Path(__file__).resolve().parent / "repository"  # in a wheel, see setup.py
REPOSITORY = _INSTALLED if _INSTALLED.is_dir() else Path(__file__).resolve().parents[1]  # has configs/ and launch/
NEEDED = ("task", "seed", "mesh")  # what configs.base.base_config puts into every config
LARGEST = 2**31 - 1  # of a whole number
_ARGUMENT = re.compile(r"--?(?P<no>no)?config(?:\.(?P<name>[^=]*))?(?:=(?P<value>.*))?", re.DOTALL)
_HOME = re.compile(r"~[\w.-]*(/|$)")


def parse(arguments: Sequence[str]) -> tuple[ConfigDict, list[str]]:
    """Returns the config that a command line describes (locked, paths expanded), and the arguments that are not its.

    Args:
      arguments: --config=FILE[:MODE] and --config.NAME=VALUE in any order, among others; the last of several counts.

    Raises:
      Problems: no such file, mode or setting, values of another type; one message each, with the nearest name.
    """
    file, overrides, others = split(arguments)
    if not file:
        raise Problems([f"give --config=FILE[:MODE], such as --config=configs/ppo.py:mini. {list_experiments()}"])
    path, _, mode = file.partition(":")
    config = load(path, mode if ":" in file else None)
    check_all(*[_override(config, name, value) for name, value in overrides.items()])
    check_all(*[_expand(config, name, value) for name, value in flat(config)])
    if config.seed is None or not 0 <= config.seed <= LARGEST:
        raise Problems([f"--config.seed={config.seed}: give a whole number from 0 to {LARGEST}."])
    return config.lock(), others


def split(arguments: Sequence[str]) -> tuple[str, dict[str, str | None], list[str]]:
    """The config file with its mode, overrides by name (None: a switch without value), and all other arguments."""
    file, overrides, others, rest = "", {}, [], list(arguments)
    while rest:
        argument = rest.pop(0)
        parts = _ARGUMENT.fullmatch(argument)
        if parts is None:
            others.append(argument)
            continue
        name, value = parts["name"], parts["value"]
        if parts["no"]:
            value = "false"
        elif value is None and rest and not rest[0].startswith("--") and rest[0].lower() not in ("", "--"):
            value = rest.pop(0)
        if name is None:
            file = (value or "").strip()
        else:
            overrides[name] = value
    return file, overrides, others


def experiments() -> list[str]:
    """Returns the names of the config files that come with lc_jax."""
    return sorted(path.stem for path in (REPOSITORY / "configs").glob("*.py") if path.stem != "base")


def list_experiments() -> str:
    """Returns a sentence for messages."""
    return f"The experiments are configs/{{{','.join(experiments())}}}.py."


def find(file: str) -> Path:
    """Returns the path of a config file: in the working folder, or else in the repository or the installed package.

    Raises:
      Problems: it is in neither.
    """
    folders = list(dict.fromkeys([Path.cwd(), REPOSITORY]))
    for folder in folders:
        path = folder / Path(file).expanduser()
        if path.is_file():
            return path
    if any((folder / file).is_dir() for folder in folders):
        raise Problems([f"--config={file} is a folder; name one file in it. {list_experiments()}"])
    names = [f"configs/{name}.py" for name in experiments()]
    near = difflib.get_close_matches(f"configs/{Path(file).stem}.py", names, 1, cutoff=0.75)
    hint = f"Did you mean --config={near[0]}? " if near else ""
    looked = " and ".join(map(str, folders if not Path(file).is_absolute() else [Path(file).parent]))
    raise Problems([f"no config file {file!r}; looked for it in {looked}. {hint}{list_experiments()}"])


def load(file: str, mode: str | None = None) -> ConfigDict:
    """Returns what `get_config(mode)` of a config file returns, not locked.

    Raises:
      Problems: no such file, it cannot be run, or does not return a config of a task.
    """
    path = find(file)
    if str(REPOSITORY) not in sys.path:
        sys.path.append(str(REPOSITORY))  # for `from configs import base`, from another working folder
    spec = importlib.util.spec_from_file_location("lc_jax_config", path)
    if spec is None or spec.loader is None:
        raise Problems([f"--config={file} is not a Python file (.py). {list_experiments()}"])
    module = importlib.util.module_from_spec(spec)
    config = _in_file(path, lambda: _get_config(module, spec.loader, file, mode))
    if not isinstance(config, ConfigDict) or any(name not in config for name in NEEDED):
        raise Problems([f"{path}: get_config must return a ConfigDict of configs.base.base_config(TASK, mode)."])
    return config


def _get_config(module: Any, loader: Any, file: str, mode: str | None) -> Any:
    loader.exec_module(module)
    if not callable(getattr(module, "get_config", None)):
        raise Problems([f"{file} has no function get_config(mode); see any file of configs/ for the form."])
    if mode is not None and not inspect.signature(module.get_config).parameters:
        raise Problems([f"{file} takes no mode: give --config={file}."])
    return module.get_config() if mode is None else module.get_config(mode)


def _in_file(path: Path, function: Callable[[], Any]) -> Any:
    """Runs code of a config file; what it raises becomes a message with file and line."""
    try:
        return function()
    except (ImportError, Problems, RecursionError):
        raise
    except SyntaxError as error:
        raise Problems([f"{error.filename or path}, line {error.lineno}: {error.msg}."]) from error
    except (OSError, ValueError) as error:
        raise Problems([str(error)]) from error
    except Exception as error:
        lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(path)]
        raise Problems([f"{path}, line {lines[-1] if lines else 1}: {type(error).__name__}: {error}"]) from error


def flat(config: ConfigDict, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields (dotted name, value) of every setting."""
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            yield from flat(value, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", value


def _holder(config: ConfigDict, name: str) -> tuple[Any, str]:
    """The group that a dotted name is in, and its last part."""
    *groups, field = name.split(".")
    for group in groups:
        config = config[group]
    return config, field


def _override(config: ConfigDict, name: str, text: str | None) -> Callable[[], None]:
    """A function that sets the setting `name` to `text`, read as the type that it has."""

    def apply() -> None:
        settings = dict(flat(config))
        if name not in settings:
            raise Problems([_unknown(name, list(settings))])
        holder, field = _holder(config, name)
        holder[field] = _value(name, text, settings[name])

    return apply


def _unknown(name: str, names: list[str]) -> str:
    """Returns the message for an unknown setting `name`, with the nearest of `names`."""
    inside = [option for option in names if option.startswith(f"{name}.")]
    if inside:
        return f"--config.{name} is a group of settings: give one of {_flags(inside)}."
    outer = [option for option in names if name.startswith(f"{option}.")]
    if outer:
        return f"--config.{name}: {outer[0]} is a single setting; give --config.{outer[0]}=VALUE."
    last = name.rpartition(".")[2]
    near = [option for option in names if option.rpartition(".")[2] == last] or difflib.get_close_matches(
        name, names, 1
    )
    if not near:
        close = difflib.get_close_matches(last, [option.rpartition(".")[2] for option in names], 1)
        near = [option for option in names if option.rpartition(".")[2] in close]
    if near:
        return f"--config.{name}: no such setting. Did you mean {_flags(near[:3], ' or ')}?"
    groups = dict.fromkeys(option.partition(".")[0] for option in names)
    return f"--config.{name}: no such setting. There are {', '.join(groups)}; those of a group are written GROUP.NAME."


def _flags(names: Sequence[str], join: str = ", ") -> str:
    return join.join(f"--config.{name}" for name in names)


def _value(name: str, text: str | None, default: Any) -> Any:
    """`text` as a value of the type of `default`.

    Raises:
      Problems: it is not one.
    """
    if isinstance(default, bool):
        values = {"true": True, "1": True, "false": False, "0": False}
        if (text or "true").strip().lower() not in values or text == "":
            raise Problems([f"--config.{name}={text}: give true or false."])
        return values[(text or "true").strip().lower()]
    if text is None:
        raise Problems([f"--config.{name} has no value: give --config.{name}=VALUE."])
    text = text.strip()
    if isinstance(default, str) or default is None:
        empty = text in ("", "None")  # both mean: none
        return ("" if isinstance(default, str) else None) if empty else text
    try:
        if isinstance(default, int):
            return _whole(text)
        if isinstance(default, float):
            return _number(text)
        if isinstance(default, tuple | list):
            return type(default)(_items(text, default))
    except ValueError as error:
        raise Problems([f"--config.{name}={text}: {error}, such as {default}."]) from error
    raise Problems([f"--config.{name} cannot be set on the command line; change it in the config file."])


def _whole(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]+", text):
        raise ValueError("give a whole number")
    if len(text) > 11 or abs(int(text)) > LARGEST:
        raise ValueError(f"give a whole number of at most {LARGEST}")
    return int(text)


def _number(text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if math.isnan(number):
        raise ValueError("give a number")
    return number


def _items(text: str, default: Sequence[Any]) -> list[Any]:
    """Items of "a,b", "(a, b)" or "['a', 'b']"; each of the type of the first item of `default`, if any."""
    try:
        value = ast.literal_eval(text) if text else ()
        items = list(value) if isinstance(value, list | tuple) else [value]
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        items = [item.strip() for item in text.split(",")]
    kind = type(default[0]) if default else None
    if kind is str:
        return [str(item) for item in items]
    if not all(isinstance(item, int | float) and not isinstance(item, bool) for item in items):
        raise ValueError("give numbers with commas between them")
    if kind is float or kind is int:
        return [_number(str(item)) if kind is float else _whole(str(item)) for item in items]
    return items


def _expand(config: ConfigDict, name: str, value: Any) -> Callable[[], None]:
    """A function that expands the home folder and file:// in a text setting, and drops slashes at its end."""

    def apply() -> None:
        if isinstance(value, str) and expand_path(value) != value:
            holder, field = _holder(config, name)
            holder[field] = expand_path(value)

    def apply_with_flag() -> None:
        try:
            apply()
        except ValueError as error:
            raise Problems([f"--config.{name}={value}: {error}"]) from error

    return apply_with_flag


def expand_path(text: str) -> str:
    """Returns a path without ~, file:// and trailing slashes; other text as it is.

    Raises:
      ValueError: the home folder of a user who is not on this machine, or file:// with a host or a relative path.
    """
    if text.startswith("file:"):
        url = urllib.parse.urlsplit(text)
        if url.netloc not in ("", "localhost") or not url.path.startswith("/"):
            raise ValueError("write it as file:///absolute/path, or as a path.")
        text = urllib.parse.unquote(url.path)
    if _HOME.match(text):
        home = os.path.expanduser(text)
        if home.startswith("~") and "/" in text:
            raise ValueError(f"no home folder for {text.partition('/')[0]!r} here; write the path out.")
        text = home
    return text.rstrip("/") or text[:1] if "://" not in text and not text.isspace() else text
