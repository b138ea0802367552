"""The command `lc_jax`: names in place of files, the same flags of lc_jax.main, and nothing slow before a run."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from lc_jax import cli, settings, terminal, usage

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def command(monkeypatch, capsys):
    """Runs `lc_jax` in this process; returns its exit code, stdout and stderr."""

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["lc_jax", *arguments])
        code = 0
        try:
            cli.main()
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
            print("" if isinstance(error.code, int) else error.code, file=sys.stderr, end="")
        return code, *capsys.readouterr()

    return call


@pytest.mark.parametrize(
    ("arguments", "flags"),
    [
        ("ppo:mini --ppo.kl_coef=0.05", "--config=configs/ppo.py:mini --config.ppo.kl_coef=0.05"),
        ("ppo --ppo.kl_coef 0.05 -v=1", "--config=configs/ppo.py --config.ppo.kl_coef 0.05 -v=1"),
        ("report --config.seed=1 --v=1 --help", "--config=configs/report.py --config.seed=1 --v=1 --help"),
        ("dir/mine.py:own --dry_run", "--config=dir/mine.py:own --config.dry_run"),
    ],
)
def test_a_command_stands_for_flags_of_main(arguments, flags):
    name, *others = arguments.split()
    assert cli.flags(name, others) == flags.split()


@pytest.mark.parametrize("script", sorted(cli.SCRIPTS))
def test_the_flags_of_a_script_are_not_taken_for_settings(script):
    name = {"quickstart": "reproduce"}.get(script, script)  # which gets all of the quickstart's flags
    text = (ROOT / "launch" / f"{name}.sh").read_text()
    patterns = " ".join(re.findall(r"^ +(--[a-z].*?)\) ", text, re.MULTILINE))
    own = set(re.findall(r"--[a-z-]+(?![a-z.-])", patterns))
    assert set(cli.SCRIPTS[script]) == own
    assert (script == "select") == (not own)


@pytest.mark.parametrize("script", sorted(cli.SCRIPTS))
def test_a_script_prints_its_usage(script):
    command = [sys.executable, "-m", "lc_jax.cli", script, "--help"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("usage: launch/")


def test_every_experiment_is_listed_with_its_first_line(command):
    code, printed, _ = command("list")
    lines = dict(line.split(maxsplit=1) for line in printed.splitlines())
    assert code == 0
    assert {name.removesuffix("[:mini]") for name in lines} == set(settings.experiments())
    assert lines["ppo[:mini]"].startswith("LC RL: PPO on the decision-based reward")
    assert {"pretrain"} == {name for name in lines if not name.endswith("[:mini]")}


def test_help_is_that_of_main_in_the_words_of_the_command(command):
    code, printed, _ = command("ppo:mini", "--help", "--ppo.kl_coef=0.05")
    assert code == 0
    assert printed.startswith("Usage: lc_jax NAME[:MODE] [--NAME=VALUE ...] [-v=1]\n")
    assert "\n  lc_jax ppo:mini      the miniature world" in printed
    assert "--config" not in printed
    (line,) = [line for line in printed.splitlines() if line.startswith("  --ppo.kl_coef=")]
    assert line.split(maxsplit=2)[:2] == ["--ppo.kl_coef=0.05", "float"]
    assert "default 0.02; " in line


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["pppo"], "error: no experiment 'pppo': did you mean ppo? `lc_jax list` prints them all."),
        (["lst"], "did you mean list"),
        (["zzzz"], "error: no experiment 'zzzz': `lc_jax list` prints them all."),
        (["ppo:minni"], "error: unknown mode ':minni': did you mean ':mini'?"),
        (["ppo:mini", "--ppo.kl_coeff=1"], "error: --ppo.kl_coeff: no such setting. Did you mean --ppo.kl_coef?"),
        (["evaluate_qa:mini"], "error: give --output=..."),
        (["completion", "fish"], "error: give the shell"),
    ],
)
def test_a_mistake_is_named_in_the_words_of_the_command(command, arguments, message):
    code, _, errors = command(*arguments)
    assert code != 0
    assert message in errors
    assert "--config" not in errors


def test_without_arguments_it_says_what_there_is(command):
    assert command()[1] == command("--help")[1]
    assert "lc_jax ppo:mini --ppo.kl_coef=0.05" in command()[1]
    assert command("--version")[1].startswith("lc_jax 0.")


def test_what_prints_only_imports_no_jax():
    code = "import sys; sys.argv[1:] = ['list']; from lc_jax import cli; cli.main(); print('jax' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "False"


@pytest.mark.parametrize("unbuffered", ["", "1"])
@pytest.mark.parametrize("arguments", [["--help"], ["list"], ["ppo", "--help"], ["completion", "bash"]])
def test_a_closed_pipe_is_quiet(arguments, unbuffered):
    reader, writer = os.pipe()
    os.close(reader)
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    command = [sys.executable, "-m", "lc_jax.cli", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, stdout=writer, stderr=subprocess.PIPE, check=False)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, b"")


COMPLETE = """
eval "$(lc_jax completion bash)"
COMP_LINE="{line}" COMP_POINT={point} COMP_CWORD={word}
_lc_jax
printf '%s\\n' "${{COMPREPLY[@]}}"
"""


@pytest.mark.parametrize(
    ("line", "replies"),
    [
        ("lc_jax rep", ["report", "report:mini", "reproduce"]),
        ("lc_jax ppo:m", ["mini"]),  # bash keeps what is before the colon
        ("lc_jax ppo:mini --ppo.kl", ["--ppo.kl_coef="]),
        ("lc_jax ppo --seed=1 --kl.k", ["--kl.k_beta=", "--kl.kind="]),
    ],
)
def test_names_and_settings_are_completed(tmp_path, line, replies):
    path = tmp_path / "lc_jax"
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -m lc_jax.cli "$@"\n')
    path.chmod(0o755)
    script = COMPLETE.format(line=line, point=len(line), word=len(line.split(" ")) - 1)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", script], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert sorted(done.stdout.split()) == replies


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "Next: python -m lc_jax.main --config=configs/ppo.py:mini --config.output=o",
            "Next: lc_jax ppo:mini --output=o",
        ),
        ("python -m lc_jax.main --config=/my/own.py --config.seed=1", "lc_jax /my/own.py --seed=1"),
        ("give --config.output=...", "give --output=..."),
    ],
)
def test_messages_are_rewritten(text, words):
    assert terminal.as_command(text) == words


@pytest.mark.parametrize(
    ("config", "setting", "comment"),
    [
        ("ppo", "ppo.frozen_on_host", "keep reference and reader in the host's memory"),  # an argument of dict()
        ("ppo", "mesh.fsdp", "devices along each axis"),  # an item of a dict in a dict
        ("ppo", "critic", "its backbone, under a fresh value head"),  # the config's own file
        ("sft_lc", "fit.batch_size", "examples of a step"),  # said of another experiment
        ("ppo", "optimizer.kind", 'or "adamw_int8"'),
        ("evaluate_qa", "judge_temperature", "of verdicts"),
        ("pretrain", "shape.initializer_range", "1 / sqrt(hidden size)"),
        ("ppo", "kl.target", "nats a response"),
        ("ppo_factuality", "reward.name", "offset: added"),  # on the line of the group
    ],
)
def test_a_setting_has_the_comment_of_its_line(command, config, setting, comment):
    _, printed, _ = command(config, "--help")
    (line,) = [line for line in printed.splitlines() if line.startswith(f"  --{setting}=")]
    assert re.split(r" (?:int|float|bool|text|list) +", line)[1].startswith(comment)


@pytest.mark.parametrize("name", sorted({*settings.experiments()} - {"pretrain"}))
def test_every_setting_is_explained(name):
    file = f"configs/{name}.py"
    comments, config = usage.Comments(settings.find(file)), settings.load(file)
    bare = {setting for setting, _ in settings.flat(config) if not comments.of(setting, config)}
    assert bare <= {"task", "optimizer.warmup_steps"}, "say in configs what these mean, at the end of their lines"


def test_a_comment_on_one_mode_is_not_that_of_the_setting(command):
    assert "reader's own errors" not in command("ppo:mini", "--help")[1]
