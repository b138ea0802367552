"""The stages of a script (launch/reproduce.sh), and the profiles that add flags to all stages of a config."""

from __future__ import annotations

import dataclasses
import difflib
import shlex
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from lc_jax import settings
from lc_jax.preflight import Problems

PROFILES = settings.REPOSITORY / "launch" / "profiles"
TRAINING = ("sft", "reward_model", "ppo", "pretrain")  # tasks that the name "training" of a profile covers
SELECTED = "selected"  # the result of a stage that launch/select.sh runs: the flags are those of each evaluation


@dataclasses.dataclass(frozen=True)
class Stage:
    """One stage."""

    name: str
    result: str  # file or folder that is there once the stage is done
    flags: tuple[str, ...]  # of lc_jax.main, those of the profile among them
    config: ConfigDict  # what the flags describe

    @property
    def experiment(self) -> str:
        """The config file's name, with its mode: "ppo", "evaluate_qa:sciq"."""
        file, mode = _experiment(self.flags)
        return f"{file}:{mode}" if mode else file

    @property
    def is_done(self) -> bool:
        """Returns whether its result is there."""
        return Path(self.result).exists()

    @property
    def is_selection(self) -> bool:
        """Returns whether the stage evaluates the candidates of a PPO run to keep one."""
        return Path(self.result).name == SELECTED

    def __str__(self) -> str:
        """Returns the line of a stages file."""
        return "\t".join([self.name, self.result, *self.flags])


def check_file(path: str, action: str) -> None:
    """Refuses a file of stages that is not there.

    Args:
      action: the flag with which launch/reproduce.sh writes such a file, for the message.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"--config.stages={path}: no such file; `launch/reproduce.sh {action}` writes one and calls this."
        )


def load(file: str | Path, profile: str = "") -> list[Stage]:
    """Returns the stages of a file of lines NAME, RESULT, FLAGS with tabs between, with the flags of a profile.

    The profile's flags come directly after the config, so that the stage's own have precedence.

    Raises:
      Problems: no such profile, or flags that a config does not take; one message each, with the stage's name.
    """
    added = load_profile(profile) if profile else {}
    stages: list[Stage] = []
    names: dict[str, list[str]] = {}  # message -> the stages that have this problem
    for line in Path(file).read_text().splitlines():
        name, result, *flags = line.strip("\t").split("\t")
        try:
            stages.append(_stage(name, result, flags, added))
        except Problems as error:
            for message in error.messages:
                names.setdefault(message, []).append(name)
    if names:
        raise Problems([f"{join_names(where)}: {message}" for message, where in names.items()])
    return stages


def _stage(name: str, result: str, flags: Sequence[str], added: Mapping[str, Sequence[str]]) -> Stage:
    file, mode = _experiment(flags)
    groups = ["all", *["training"] * (settings.parse(flags)[0].task in TRAINING), file, f"{file}:{mode}"]
    extra = [flag for group in dict.fromkeys(groups) for flag in added.get(group, ())]
    whole = (flags[0], *extra, *flags[1:])
    return Stage(name, result, whole, settings.parse(whole)[0])


def _experiment(flags: Iterable[str]) -> tuple[str, str]:
    """Name of the config file without its ending, and its mode."""
    file, _, mode = settings.split(list(flags))[0].partition(":")
    return Path(file).stem, mode


def join_names(names: Sequence[str]) -> str:
    """Returns the first names of several stages, and how many more there are."""
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def load_profile(name: str) -> dict[str, list[str]]:
    """Returns the flags of a profile by what they are for: "all", "training" or the name of a config.

    Args:
      name: of a file of launch/profiles without its ending, or a path. Lines are CONFIG FLAG [FLAG ...], quoted as in a
        shell; "#" begins a comment.

    Raises:
      Problems: there is no such profile, or a line of it is none; names file and line.
    """
    path = Path(name) if Path(name).is_file() else PROFILES / f"{name}.flags"
    if not path.is_file():
        names = ", ".join(sorted(file.stem for file in PROFILES.glob("*.flags")))
        raise Problems([f"--profile={name}: no such file, nor a profile of launch/profiles ({names})."])
    flags: dict[str, list[str]] = {}
    problems = []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            words = shlex.split(line, comments=True)
        except ValueError as error:
            problems.append(f"{path}, line {number}: {error}; close the quotation mark.")
            continue
        if words:
            problems += [f"{path}, line {number}: {fault}" for fault in _faults(words)]
            flags.setdefault(words[0], []).extend(words[1:])
    if problems:
        raise Problems(problems)
    return flags


def _faults(words: Sequence[str]) -> list[str]:
    """What is wrong with a line of a profile."""
    groups = ["all", "training", *settings.experiments()]
    config, *flags = words
    faults = []
    if config.partition(":")[0] not in groups:
        near = difflib.get_close_matches(config, groups, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        faults.append(f"{config!r} is no config: {hint}give the name of a file in configs/, training, or all.")
    bad = [flag for flag in flags if not flag.startswith("--config.") or "=" not in flag]
    return faults + [f"{flag!r} is no flag: give --config.NAME=VALUE." for flag in bad]
