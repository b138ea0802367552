"""The command line: mistakes end at once, with a message that helps and a non-zero exit code."""

import importlib.metadata
import json
import subprocess
import sys
from pathlib import Path

import pytest

from lc_jax import provenance

ROOT = Path(__file__).resolve().parents[1]


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "lc_jax.main", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=120
    )


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
        (["--config=configs/pretrain.py", "--config.mesh.fsdp=3"], "mesh"),
        (["--config=configs/evaluate_qa.py:mini"], "give --config.output=..."),
        (
            ["--config=configs/pretrain.py", "--config.precision.param_dtype=bfloat"],
            "--config.precision.param_dtype=bfloat",
        ),
    ],
)
def test_mistakes_are_named(arguments, message):
    result = command(*arguments)
    assert result.returncode != 0
    assert message in result.stderr + result.stdout
    assert "compil" not in result.stderr
    assert all(line.startswith("error: ") for line in result.stderr.splitlines()), result.stderr


FAILURES = """
import sys
from lc_jax import main
from lc_jax.tasks import report
def run(config, mesh):
    {body}
report.run = run
main.start()
"""


def failing(body, *arguments, **options):
    """A run of the task "report" that does `body` instead."""
    program = [sys.executable, "-c", FAILURES.format(body=body), "--config=configs/report.py", *arguments]
    return subprocess.run(program, cwd=ROOT, capture_output=True, text=True, timeout=120, **options)


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ("{}['x']", 70, "error: internal error: KeyError: 'x' (a bug; -v=1 shows where, please report it)"),
        ("raise ValueError('two\\nlines')", 1, "error: two lines"),
        ("open('/no/such')", 1, "error: /no/such: No such file or directory"),
        ("raise KeyboardInterrupt", 130, "error: interrupted"),
        ("raise MemoryError", 1, "error: out of memory (of the host). --config.dry_run=true prints"),
        ("raise RuntimeError('RESOURCE_EXHAUSTED: 9 GB')", 1, "error: out of memory (RESOURCE_EXHAUSTED: 9 GB)."),
        ("import jax; raise jax.errors.JaxRuntimeError('UNAVAILABLE: a peer')", 1, "error: JAX: UNAVAILABLE: a peer"),
        ("raise ModuleNotFoundError('No', name='jax.numpy')", 1,
         'error: the package jax is not installed: pip install ".[train]"'),
        ("import not_there", 1, "error: the package not_there is not installed: pip install ."),
        ("from lc_jax.preflight import Problems; raise Problems(['a', 'b'])", 1, "error: a\nerror: b"),
        ("sys.exit(75)", 75, ""),
    ],
)  # fmt: skip
def test_a_run_that_fails_ends_in_one_line(tmp_path, body, code, message):
    result = failing(body, f"--config.output={tmp_path}/new/out")
    assert result.returncode == code
    assert result.stderr.startswith(message)
    assert len(result.stderr.splitlines()) == len(message.splitlines())
    assert not (tmp_path / "new").exists()  # nothing was made


def test_the_traceback_is_there_with_a_flag_and_in_the_record(tmp_path):
    body = "open(config.output + '/half', 'w'); {}['x']"
    assert "Traceback" in failing(body, f"--config.output={tmp_path}", "-v=1").stderr
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
    ("text", "shown"),
    [
        ("runs/skill-evaluation-results", "runs/skill-evaluation-results"),
        ("hf-internal-testing/tiny-random-llama", "hf-internal-testing/tiny-random-llama"),
        ("https://0123token@host/v1", "https://...@host/v1"),
        ("hf_0123456789abcdefghij", "..."),
    ],
)
def test_names_of_folders_are_no_secrets(text, shown):
    assert provenance.without_secrets(text) == shown


def test_a_run_leaves_its_config_command_versions_and_commit(tmp_path):
    key = "sk-ant-0123456789abcdefghij"
    first = ["--config.num_examples=5", f"--config.baseline={key}", "--config.evaluations=https://me:secret@host/x"]
    assert failing("pass", f"--config.output={tmp_path}/out", *first).returncode == 0
    assert failing("pass", f"--config.output={tmp_path}/out", "--config.num_examples=6").returncode == 0
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


def test_a_dry_run_leaves_nothing(tmp_path):
    failing("pass", f"--config.output={tmp_path}/out", "--config.dry_run=true")
    assert not (tmp_path / "out").exists()


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
