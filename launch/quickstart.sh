#!/usr/bin/env bash
# The whole method on a laptop: a base model goes in, a linguistically calibrated model comes out.
#
#   bash launch/quickstart.sh                 every stage; a stage whose result is there is skipped, a half-done one resumes
#
#   LC_OUTPUT       where everything goes (default runs/miniature); remove a folder in it to run that stage again
#   LC_SEED         seed of everything after the base models (default 0)
#   LC_ACCELERATOR  cuda12 | cuda13 | tpu (default: CPU)
set -euo pipefail
. "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
setup base

export LC_OUTPUT="${LC_OUTPUT:-runs/miniature}" LC_SEED="${LC_SEED:-0}"
data="$LC_OUTPUT/data"
mkdir -p "$data"

# stage NAME RESULT FLAGS...: says what is done, and does it unless its result is there.
stage() {
  local name=$1 result=$2 started=$SECONDS
  shift 2
  if [ -e "$result" ]; then
    echo "== $name: done before ($result)"
    return
  fi
  echo "== $name"
  python -m lc_jax.main "$@"
  echo "== $name: $((SECONDS - started)) s"
}
config() { echo "--config=configs/$1.py:mini"; }

# 1. The base model knows its world from many writers, who are often wrong and do not say so. It ships with the package
#    (configs/pretrain.py makes it). Ask it for eight paragraphs a question ...
stage "sample paragraphs" "$data/paragraphs.jsonl" "$(config generate_data)" \
  --config.what=paragraphs --config.output="$data/paragraphs.jsonl"
# ... and let the annotator merge each eight into one that says how often they agree: summary distillation.
stage "summarise" "$data/sft.jsonl" "$(config generate_data)" \
  --config.what=summaries --config.input="$data/paragraphs.jsonl" --config.output="$data/sft.jsonl"

# 2. Fine-tune on the summaries (LC SFT), and on plain paragraphs (Factuality SFT, the baseline).
stage "LC SFT" "$LC_OUTPUT/lc_sft/model" "$(config sft_lc)"
stage "Factuality SFT" "$LC_OUTPUT/factuality_sft/model" "$(config sft_factuality)"

# 3. Teach models to read: which answers does a paragraph offer, and with which probability?
stage "paragraphs of LC SFT" "$data/lc_paragraphs.jsonl" "$(config generate_data)" \
  --config.what=paragraphs --config.questions.split=reward_model --config.model="$LC_OUTPUT/lc_sft/model" \
  --config.num_samples=1 --config.column=lc_sft_generated_paragraph --config.output="$data/lc_paragraphs.jsonl"
stage "read them" "$data/forecasts.jsonl" "$(config generate_data)" \
  --config.what=forecasts --config.questions.split=reward_model --config.input="$data/lc_paragraphs.jsonl" \
  --config.output="$data/forecasts.jsonl"
stage "paragraphs of Factuality SFT" "$data/both_paragraphs.jsonl" "$(config generate_data)" \
  --config.what=paragraphs --config.questions.split=reward_model --config.model="$LC_OUTPUT/factuality_sft/model" \
  --config.input="$data/forecasts.jsonl" --config.num_samples=1 --config.column=factuality_sft_generated_paragraph \
  --config.output="$data/both_paragraphs.jsonl"
stage "check them" "$data/reward_model.jsonl" "$(config generate_data)" \
  --config.what=correctness --config.questions.split=reward_model --config.input="$data/both_paragraphs.jsonl" \
  --config.output="$data/reward_model.jsonl"
stage "ExtractAnswers" "$LC_OUTPUT/extract_answers/model" "$(config extract_answers)"
stage "ForecastProbs" "$LC_OUTPUT/forecast_probs/model" "$(config forecast_probs)"
stage "Factuality reward model" "$LC_OUTPUT/factuality_reward/model" "$(config factuality_reward)"

# 4. Reinforcement learning: write so that the readers' forecasts come true (LC RL), or just so that they are right.
stage "LC RL" "$LC_OUTPUT/lc_rl/model" "$(config ppo)"
stage "Factuality RL" "$LC_OUTPUT/factuality_rl/model" "$(config ppo_factuality)"

# 5. Evaluate all four on held-out questions, with the fixed reader and not with the trained one.
evaluate() {  # NAME METHOD USES_CONFIDENCE
  stage "evaluate $2" "$LC_OUTPUT/evaluation/$1/result.json" "$(config evaluate_qa)" --config.method="$2" \
    --config.model="$LC_OUTPUT/$1/model" --config.uses_confidence="$3" --config.output="$LC_OUTPUT/evaluation/$1"
}
evaluate lc_rl "LC RL" true
evaluate lc_sft "LC SFT" true
evaluate factuality_rl "Factuality RL" false
evaluate factuality_sft "Factuality SFT" false
python -m lc_jax.main "$(config report)"
