"""Scripts of launch/, run with a `python` that only notes what it is called with."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
# A `python` that notes what it is called with and leaves the results. For plans, and for checks with CHECK, it is the
# real one; otherwise all stages pass the check.
STUB = """#!/bin/sh
case "$CHECK $*" in
  *configs/plan.py* | yes*configs/check_stages.py*) exec "$REAL_PYTHON" "$@" ;;
  *configs/check_stages.py*)
    for argument in "$@"; do
      case "$argument" in
        --config.stages=*) stages=${argument#*=} ;;
        --config.ready=*)
          cp "$stages" "${argument#*=}"
          sed "s/.*/60/" "$stages" >"${argument#*=}.seconds" ;;
      esac
    done
    exit ;;
esac
echo "$*" >>"$CALLS"
for argument in "$@"; do
  case "$argument" in
    --config.output=*.jsonl) touch "${argument#--config.output=}" ;;
    --config.output=*)
      output="${argument#*=}"
      mkdir -p "$output/model" "$output/checkpoints" "$output/candidates/step-000800/model"
      touch "$output/result.json" ;;
    --config.run=*) mkdir -p "${argument#*=}/selected" ;;
  esac
done
"""


@pytest.fixture
def launch(tmp_path):
    """Runs a script of launch/; gives its output and the calls of lc_jax.main."""
    environment = tmp_path / "venv"
    (environment / "bin").mkdir(parents=True)
    (environment / "bin" / "python").write_text(STUB)
    (environment / "bin" / "python").chmod(0o755)
    key = subprocess.run(
        'echo "$(pwd)  $(cat pyproject.toml requirements.txt | cksum)"', shell=True, cwd=ROOT, capture_output=True
    )
    (environment / "installed-base").write_bytes(key.stdout)  # nothing to install
    calls = tmp_path / "calls"
    variables = {k: v for k, v in os.environ.items() if not k.startswith("LC_")}
    variables |= {"LC_VENV": str(environment), "LC_OUTPUT": str(tmp_path / "out"), "CALLS": str(calls)}
    variables |= {"REAL_PYTHON": sys.executable, "PYTHONPATH": str(ROOT)}

    def run(script, *arguments, **more):
        calls.write_text("")
        command = ["bash", str(ROOT / "launch" / script), *arguments]
        done = subprocess.run(command, env=variables | more, capture_output=True, text=True, cwd=tmp_path)
        return done.returncode, done.stdout + done.stderr, calls.read_text().splitlines()

    return run


def settings_of(call):
    """The flags of a call by name."""
    return dict(re.findall(r"--config\.([\w.]+)=(.*?)(?= --config|$)", call))
