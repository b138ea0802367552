#!/usr/bin/env bash
# Selects the model of a PPO run: evaluates its candidates (the checkpoints with the best validation rewards) on the validation
# questions, and copies the best calibrated one to RUN/selected. Finished evaluations are reused.
#
#   launch/select.sh RUN [flags of configs/evaluate_qa.py, at least the annotator]
#   launch/select.sh runs/ppo --config.annotator.name=anthropic/claude-haiku-4-5
set -euo pipefail
usage="usage: launch/select.sh RUN --config.annotator.name=provider/model [other flags of configs/evaluate_qa.py]"
case "${1:-}" in
  -h | --help) echo "$usage"; exit ;;
  "" | -*) echo "$usage" >&2; exit 2 ;;
esac
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
. "$(dirname "${BASH_SOURCE[0]}")/stages.sh"
run=$(realpath -m "$(expand_home "$1")")
shift
if [ ! -d "$run/candidates" ]; then echo "$run/candidates is not there: train with ppo.num_candidates above 0" >&2; exit 1; fi
if ! ls -d "$run"/candidates/step-* >/dev/null 2>&1; then echo "$run/candidates is empty: no step was kept" >&2; exit 1; fi
setup base

for candidate in "$run"/candidates/step-*; do
  run_stage "evaluate ${candidate##*/}" "$candidate/evaluation/result.json" --config=configs/evaluate_qa.py \
    --config.questions.split=validation --config.questions.answers_split=train --config.data="TriviaQA validation" \
    "$@" --config.method="${candidate##*/}" --config.model="$candidate/model" --config.output="$candidate/evaluation"
done
python -m lc_jax.main --config=configs/select_checkpoint.py --config.run="$run"
