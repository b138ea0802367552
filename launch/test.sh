#!/usr/bin/env bash
# Runs the checks of this project from a fresh clone; offline except for the first installation.
#   launch/test.sh                      linters, types, import layers, and all tests except the slow ones
#   launch/test.sh -m slow              the same with the slow tests instead; CI runs both
#   launch/test.sh tests/rl -k loss     arguments are passed to pytest
#   PYTHON=python3.12 LC_VENV=/tmp/lc312 launch/test.sh      with another interpreter, in its own environment
# LC_ACCELERATOR=cuda12|cuda13|tpu installs JAX for that accelerator; the tests themselves run on eight simulated CPU devices.
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup dev

set -x
ruff check
ruff format --check
mypy
lint-imports
python -m pytest --numprocesses 2 --dist loadfile -m "not slow" "$@"
