"""The command line: mistakes end at once, with a message that helps and a non-zero exit code."""

import importlib
import importlib.metadata
import json
import subprocess
import sys
import types
from pathlib import Path

import jax
import pytest

from lc_jax import main, provenance, settings
from lc_jax.preflight import Problems
from lc_jax.tasks import report

ROOT = Path(__file__).resolve().parents[1]


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "lc_jax.main", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


@pytest.fixture
def in_process(monkeypatch, capsys):
    """Runs a command line in this process, which takes a tenth of the time of another one."""
    monkeypatch.chdir(ROOT)

    def call(*arguments):
        code = 0
        try:
            main.main(main.parse_flags(["lc_jax.main", *arguments]))
        except SystemExit as error:
            code = error.code if isinstance(error.code, int) else 1
            if isinstance(error.code, str):
                print(error.code, file=sys.stderr)
        out, err = capsys.readouterr()
        return types.SimpleNamespace(returncode=code, stdout=out, stderr=err)

    return call


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--config=configs/ppo.py:mini", "--config.ppo.kl_coeff=0.05"], "Did you mean --config.ppo.kl_coef?"),
        (["--config=configs/ppo.py:mini", "--config.policy=/no/such/model"], "No checkpoint folder /no/such/model"),
        (["--config=configs/ppo.py:tiny"], "give the config file alone, or with ':mini'"),
        (
            ["--config=configs/generate.py:mini", "--config.prompts=none.jsonl", "--config.output=o"],
            "No file 'none.jsonl'",
        ),
        (["--config=configs/evaluate_qa.py:mini"], "give --config.output=..."),
        (
            ["--config=configs/pretrain.py", "--config.precision.param_dtype=bfloat"],
            "--config.precision.param_dtype=bfloat",
        ),
    ],
)
def test_mistakes_are_named(in_process, arguments, message):
    result = in_process(*arguments)
    assert result.returncode != 0
    assert message in result.stderr + result.stdout
    assert all(line.startswith("error: ") for line in result.stderr.splitlines()), result.stderr


def test_a_mistake_that_only_the_devices_tell_is_one_line():
    result = command("--config=configs/pretrain.py", "--config.mesh.fsdp=3")
    assert result.returncode == 1
    assert "mesh" in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: ")


EXPERIMENTS = sorted(path.stem for path in (ROOT / "configs").glob("*.py") if path.stem != "base")


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_help_prints_usage_modes_and_every_setting_with_its_value(in_process, name):
    result = in_process(f"--config=configs/{name}.py", "--config.seed=7", "--help")
    assert (result.returncode, result.stderr) == (0, "")
    lines = result.stdout.splitlines()
    assert lines[0] == "Usage: python -m lc_jax.main --config=FILE[:MODE] [--config.NAME=VALUE ...] [-v=1]"
    modes = {"pretrain": "give the config file with ':llama' or ':gpt_neox'."}.get(name, "or with ")
    assert any(line.startswith("Modes: give ") and modes in line for line in lines)
    values = dict(line.strip().split("=", 1) for line in lines if line.startswith("  --config."))
    config = settings.load(f"configs/{name}.py")
    assert values.keys() - {"--config"} >= {f"--config.{key}" for key, _ in settings.flat(config) if key != "task"}
    assert values["--config.seed"].partition(";")[0].split() == ["7", "int", "default", str(config.seed)]


def test_help_without_a_config_names_the_experiments_and_a_wrong_mode_is_one_line(in_process):
    result = in_process("--help")
    assert (result.returncode, "configs/{build_knowledge," in result.stdout) == (0, True)
    wrong = in_process("--config=configs/ppo.py:minni", "-h")
    assert (wrong.returncode, wrong.stdout) == (1, "")
    assert wrong.stderr.startswith("error: unknown mode ':minni': did you mean ':mini'?")


FAILURES = """
import sys
from lc_jax import main
from lc_jax.preflight import Problems
from lc_jax.tasks import report
def run(config, mesh):
    {body}
report.run = run
main.start()
"""


@pytest.fixture
def failing_in_process(in_process, monkeypatch):
    """A run of the task "report" that calls a function instead, in this process."""

    def call(function, *arguments):
        monkeypatch.setattr(report, "run", lambda config, mesh: function())
        return in_process("--config=configs/report.py", *arguments)

    return call


def raising(error):
    """A function that raises `error`."""

    def call():
        raise error

    return call


def failing(body, *arguments, **options):
    """A run of the task "report" that does `body` instead."""
    program = [sys.executable, "-c", FAILURES.format(body=body), "--config=configs/report.py", *arguments]
    return subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=120, **options)


@pytest.mark.parametrize(
    ("function", "code", "message"),
    [
        (lambda: {}["x"], 70, "error: internal error: KeyError: 'x' (a bug; -v=1 shows where, please report it)"),
        (raising(ValueError("two\nlines")), 1, "error: two lines"),
        (lambda: Path("/no/such").read_text(), 1, "error: /no/such: No such file or directory"),
        (raising(KeyboardInterrupt()), 130, "error: interrupted"),
        (raising(MemoryError()), 1, "error: out of memory (of the host). --config.dry_run=true prints"),
        (raising(RuntimeError("RESOURCE_EXHAUSTED: 9 GB")), 1, "error: out of memory (RESOURCE_EXHAUSTED: 9 GB)."),
        (raising(jax.errors.JaxRuntimeError("UNAVAILABLE: a peer")), 1, "error: JAX: UNAVAILABLE: a peer"),
        (raising(ModuleNotFoundError("No", name="jax.numpy")), 1,
         'error: the package jax is not installed: pip install ".[train]"'),
        (lambda: importlib.import_module("nope"), 1, "error: the package nope is not installed: pip install ."),
        (raising(Problems(["a", "b"])), 1, "error: a\nerror: b"),
        (lambda: sys.exit(75), 75, ""),
    ],
)  # fmt: skip
def test_a_run_that_fails_ends_in_one_line(failing_in_process, tmp_path, function, code, message):
    result = failing_in_process(function, f"--config.output={tmp_path}/new/out")
    assert result.returncode == code
    assert result.stderr.startswith(message)
    assert len(result.stderr.splitlines()) == len(message.splitlines())
    assert not (tmp_path / "new").exists()  # nothing was made


def test_the_traceback_is_there_with_a_flag_and_in_the_record(tmp_path):
    body = "import logging; logging.getLogger('jax').debug('of JAX'); open(config.output + '/half', 'w'); {}['x']"
    printed = failing(body, f"--config.output={tmp_path}", "-v=1").stderr
    assert "Traceback" in printed
    assert "of JAX" not in printed  # other libraries' lines stay out
    (entry,) = json.loads((tmp_path / "run.json").read_text())["runs"]
    assert entry["outcome"] == "KeyError: 'x'"
    assert entry["traceback"][-1] == "KeyError: 'x'"


def test_a_closed_pipe_is_quiet(tmp_path):
    body = "[print('x' * 1000) for _ in range(1000)]"
    program = FAILURES.format(body=body)
    command = [sys.executable, "-c", program, "--config=configs/report.py", f"--config.output={tmp_path}"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("runs/skill-evaluation-results", "runs/skill-evaluation-results"),
        ("hf-internal-testing/tiny-random-llama", "hf-internal-testing/tiny-random-llama"),
        ("https://0123token@host/v1", "https://...@host/v1"),
        ("hf_0123456789abcdefghij", "..."),
    ],
)
def test_names_of_folders_are_no_secrets(text, expected):
    assert provenance.without_secrets(text) == expected


def test_a_run_leaves_its_config_command_versions_and_commit(failing_in_process, tmp_path):
    key = "sk-ant-0123456789abcdefghij"
    first = ["--config.num_examples=5", f"--config.baseline={key}", "--config.evaluations=https://me:secret@host/x"]
    assert failing_in_process(lambda: None, f"--config.output={tmp_path}/out", *first).returncode == 0
    assert (
        failing_in_process(lambda: None, f"--config.output={tmp_path}/out", "--config.num_examples=6").returncode == 0
    )
    text = (tmp_path / "out" / "run.json").read_text()
    assert key not in text
    assert "me:secret" not in text
    old, new = json.loads(text)["runs"]
    assert old["command"][:4] == ["python", "-m", "lc_jax.main", "--config=configs/report.py"]
    assert old["command"][-1] == "--config.evaluations=https://...@host/x"
    assert (old["config"]["num_examples"], old["config"]["precision.remat"]) == (5, "full")
    assert set(old["packages"]) >= {"jax", "numpy", "transformers"}
    assert old["packages"]["numpy"] == importlib.metadata.version("numpy")
    assert old["code"]["version"].startswith(importlib.metadata.version("lc_jax"))
    assert old["started"] <= old["finished"]
    assert (old["outcome"], old["devices"]) == ("done", {})
    assert new["changed"]["num_examples"] == [5, 6]
    assert "changed" not in old


def test_a_dry_run_leaves_nothing(failing_in_process, tmp_path):
    failing_in_process(lambda: None, f"--config.output={tmp_path}/out", "--config.dry_run=true")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_checkpoint_has_the_record_of_its_conversion_once_it_is_whole(tmp_path):
    model = ROOT / "lc_jax" / "miniature" / "checkpoints" / "llama"
    arguments = ["--config=configs/convert.py:mini", f"--config.destination={tmp_path}/m/"]
    failed = command(*arguments, "--config.source=/no/model")
    assert (failed.returncode, list(tmp_path.iterdir())) == (1, [])
    done = command(*arguments, f"--config.source={model}", "--config.dtype=float16")
    assert done.returncode == 0, done.stderr
    (entry,) = json.loads((tmp_path / "m" / "run.json").read_text())["runs"]
    assert (entry["config"]["dtype"], entry["outcome"]) == ("float16", "done")
    assert entry["devices"]["mesh"] == {"data": 1, "fsdp": entry["devices"]["count"], "tensor": 1}
