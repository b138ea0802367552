"""The command line: mistakes end at once, with a message that helps and a non-zero exit code."""

import subprocess
import sys
from pathlib import Path

import pytest

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
            "No JSONL file 'none.jsonl'",
        ),
        (["--config=configs/ppo.py:mini", "--config.mesh.fsdp=3"], "mesh"),
        (["--config=configs/evaluate_qa.py:mini"], "give --config.output=..."),
    ],
)
def test_mistakes_are_named(arguments, message):
    result = command(*arguments)
    assert result.returncode != 0
    assert message in result.stderr + result.stdout
    assert "compil" not in result.stderr
