"""Stages of a script (launch/reproduce.sh), and profiles, which add flags to the stages of a config."""

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
TRAINING = ("sft", "reward_model", "ppo", "pretrain")  # tasks of the group "training" of a profile
SELECTED = "selected"  # the result of a stage of launch/select.sh, whose flags are those of each evaluation


@dataclasses.dataclass(frozen=True)
class Stage:
    """One command of a script."""

    name: str
    result: str  # file or folder that the stage makes
    flags: tuple[str, ...]  # for lc_jax.main, including those of the profile
    config: ConfigDict  # with the flags applied

    @property
    def experiment(self) -> str:
        """Name of the config file, with its mode: "ppo", "evaluate_qa:sciq"."""
        file, mode = _experiment(self.flags)
        return f"{file}:{mode}" if mode else file

    @property
    def is_done(self) -> bool:
        """True if its result exists."""
        return Path(self.result).exists()

    @property
    def is_selection(self) -> bool:
        """True if the stage evaluates the candidates of a PPO run to select one."""
        return Path(self.result).name == SELECTED

    def __str__(self) -> str:
        """Returns the line of the stage in a file of stages."""
        return "\t".join([self.name, self.result, *self.flags])


def check_file(path: str, action: str) -> None:
    """Checks that a file of stages exists.

    Args:
      action: the flag with which launch/reproduce.sh writes such a file, for the message.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(
            f"--config.stages={path}: no such file; `launch/reproduce.sh {action}` writes one and calls this."
        )


def load(file: str | Path, profile: str = "") -> list[Stage]:
    """Loads stages from lines NAME, RESULT, FLAGS, separated by tabs, and adds the flags of a profile.

    The profile's flags come directly after the config, so that the stage's own have precedence.

    Raises:
      Problems: no such profile, or flags that a config does not take; one message each, with the stage's name.
    """
    profile_flags = load_profile(profile) if profile else {}
    stages: list[Stage] = []
    names: dict[str, list[str]] = {}  # message -> the stages that have this problem
    for line in Path(file).read_text().splitlines():
        name, result, *flags = line.strip("\t").split("\t")
        try:
            stages.append(_stage(name, result, flags, profile_flags))
        except Problems as error:
            for message in error.messages:
                names.setdefault(message, []).append(name)
    if names:
        raise Problems([f"{join_names(where)}: {message}" for message, where in names.items()])
    return stages


def _stage(name: str, result: str, flags: Sequence[str], profile_flags: Mapping[str, Sequence[str]]) -> Stage:
    file, mode = _experiment(flags)
    groups = ["all", *["training"] * (settings.parse(flags)[0].task in TRAINING), file, f"{file}:{mode}"]
    extra = [flag for group in dict.fromkeys(groups) for flag in profile_flags.get(group, ())]
    all_flags = (flags[0], *extra, *flags[1:])
    return Stage(name, result, all_flags, settings.parse(all_flags)[0])


def _experiment(flags: Iterable[str]) -> tuple[str, str]:
    """Returns the name of the config file without its ending, and its mode."""
    file, _, mode = settings.split(list(flags))[0].partition(":")
    return Path(file).stem, mode


def join_names(names: Sequence[str]) -> str:
    """Returns the first two of several names, and the number of the others."""
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def load_profile(name: str) -> dict[str, list[str]]:
    """Loads the flags of a profile by group: "all", "training" or the name of a config.

    Args:
      name: a file of launch/profiles without its ending, or a path. Lines are CONFIG FLAG [FLAG ...], quoted as in a
        shell; "#" begins a comment.

    Raises:
      Problems: there is no such profile, or one of its lines is invalid; the message names file and line.
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
    """Returns the problems of a line of a profile."""
    groups = ["all", "training", *settings.experiments()]
    config, *flags = words
    faults = []
    if config.partition(":")[0] not in groups:
        near = difflib.get_close_matches(config, groups, 1)
        hint = f"did you mean {near[0]}? " if near else ""
        faults.append(f"{config!r} is no config: {hint}give the name of a file in configs/, training, or all.")
    bad = [flag for flag in flags if not flag.startswith("--config.") or "=" not in flag]
    return faults + [f"{flag!r} is no flag: give --config.NAME=VALUE." for flag in bad]
