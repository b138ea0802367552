"""The command `lc_jax`: runs an experiment by its name, in any folder.

  lc_jax list                          the experiments, each with what it does
  lc_jax ppo:mini --ppo.kl_coef=0.05   runs one, with settings as --NAME=VALUE; as NAME also a file of your own, mine.py
  lc_jax ppo --help                    its modes and settings
  lc_jax quickstart [--plan|--check]   the whole method on the miniature world, into runs/miniature (minutes)
  lc_jax reproduce [--plan|--check]    the paper in order
  lc_jax calibrate --model=MODEL --questions=FILE     any model, any questions with short answers
  lc_jax compare [--seeds=0,1]         the objectives side by side, on the miniature world (hours)
  lc_jax select RUN --NAME=VALUE ...   the best calibrated of a PPO run's candidates
  lc_jax completion bash|zsh           a script that completes names: eval "$(lc_jax completion bash)"
  lc_jax --version

`lc_jax ppo:mini --ppo.kl_coef=0.05` is the same as

  python -m lc_jax.main --config=configs/ppo.py:mini --config.ppo.kl_coef=0.05
"""

from __future__ import annotations

import difflib
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import lc_jax.main
from lc_jax import provenance, settings, terminal, usage

_OF_STAGES = ("--plan", "--check", "--profile", "--devices", "--keep-checkpoints")
# The scripts of launch/, each with its flags that are no settings.
SCRIPTS = {
    "quickstart": ("--mini", *_OF_STAGES),
    "reproduce": ("--mini", *_OF_STAGES),
    "calibrate": (
        "--model", "--questions", "--columns", "--test", "--limit", "--output", "--annotator", "--reader", "--seeds",
        *_OF_STAGES,
    ),
    "compare": ("--from", "--seeds", "--objectives", "--profile"),
    "select": (),
}  # fmt: skip
COMMANDS = ("list", *SCRIPTS, "completion")
HELP = ("help", "--help", "-h")
_OF_MAIN = ("--config", "--v", "--help", "--helpshort", "--helpfull")  # flags that are no settings
# The settings are those lines of --help that begin with "  --". Bash takes a colon as the end of a word: what is before
# it stays on the command line.
_COMPLETION = """_lc_jax() {{
  local line=${{COMP_LINE:0:COMP_POINT}} words="{names}" current
  current=${{line##* }}
  if [ "$COMP_CWORD" -gt 1 ]; then
    words=$(lc_jax $(echo "$line" | cut -d" " -f2) --help 2>/dev/null | sed -n 's/^  \\(--[^ =]*=\\).*/\\1/p')
  fi
  COMPREPLY=($(compgen -W "$words" -- "$current"))
  if [ -n "$BASH_VERSION" ]; then COMPREPLY=("${{COMPREPLY[@]#"${{current%"${{current##*[:=]}}"}}"}}"); fi
}}
complete -o nospace -o default -F _lc_jax lc_jax
"""


def main() -> None:
    """The entry point."""
    with terminal.quiet_when_closed():
        _run(*(sys.argv[1:] or ["--help"]))


def _run(command: str, *arguments: str) -> None:
    """Runs one command of `COMMANDS`, or else the experiment of that name."""
    if command in HELP:
        print((__doc__ or "").partition("\n\n")[2])
    elif command == "--version":
        print(f"lc_jax {provenance.code_version()}")
    elif command == "list":
        print("\n".join(f"{name + mini:<28} {text}" for name, mini, text in _experiments()))
    elif command == "completion":
        _complete(arguments)
    elif command in SCRIPTS:
        _run_script(command, arguments)
    else:
        lc_jax.main.start(["lc_jax", *flags(command, arguments)], terminal.as_command)


def flags(experiment: str, arguments: Sequence[str]) -> list[str]:
    """Returns the flags of lc_jax.main that a command line of `lc_jax` stands for.

    Args:
      experiment: the name of a config with its mode, such as "ppo:mini", or a file such as mine.py.
      arguments: --NAME=VALUE of settings, -v=1, --help.
    """
    name, colon, mode = experiment.partition(":")
    if not name.endswith(".py"):
        _check_name(name)
        name = f"configs/{name}.py"
    return [f"--config={name}{colon}{mode}", *map(_flag, arguments)]


def _flag(argument: str, others: Sequence[str] = _OF_MAIN) -> str:
    name = argument.partition("=")[0]
    is_setting = name.startswith("--") and name not in others and not name.startswith("--config.")
    return f"--config.{argument[2:]}" if is_setting else argument


def _check_name(name: str) -> None:
    """Ends the process with a message where there is no such experiment."""
    names = [*settings.experiments(), *COMMANDS]
    if name in names:
        return
    near = difflib.get_close_matches(name, names, 3) or [other for other in names if name and name in other]
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    sys.exit(f"error: no experiment {name!r}: {hint}`lc_jax list` prints them all.")


def _experiments() -> list[tuple[str, str, str]]:
    """Name, "[:mini]" where it takes that, and first line of every experiment."""
    files = {name: f"configs/{name}.py" for name in settings.experiments()}
    return [
        (name, "[:mini]" if "mini" in usage.modes(file) else "", usage.describe(file).partition("\n")[0])
        for name, file in files.items()
    ]


def _complete(arguments: Sequence[str]) -> None:
    """Prints the script that completes names in a shell."""
    if list(arguments) not in (["bash"], ["zsh"]):
        sys.exit('error: give the shell: eval "$(lc_jax completion bash)", or zsh.')
    names = [name + mode for name, mini, _ in _experiments() for mode in ("", ":mini")[: 1 + bool(mini)]]
    script = _COMPLETION.format(names=" ".join([*names, *COMMANDS]))
    print("autoload -U +X bashcompinit && bashcompinit\n" * (arguments[0] == "zsh") + script, end="")


def _run_script(script: str, arguments: Sequence[str]) -> None:
    """Becomes a script of launch/, in this folder and with this Python."""
    folder = settings.REPOSITORY / "launch"
    search_path = os.pathsep.join([str(Path(sys.executable).parent), os.environ.get("PATH", "")])
    environment = os.environ | {"PATH": search_path, "LC_SETUP": "none"}
    flags = [_flag(argument, (*SCRIPTS[script], *HELP)) for argument in arguments]
    try:
        os.execvpe("bash", ["bash", str(folder / f"{script}.sh"), *flags], environment)
    except FileNotFoundError:
        sys.exit("error: bash is not installed, which the scripts of several stages need.")


if __name__ == "__main__":
    main()
