#!/usr/bin/env bash
# Reproduces the paper: models, readers, reinforcement learning, evaluation of all methods, tables and figures.
#
#   launch/reproduce.sh                with the published settings and arithmetic (eight 80 GB GPUs)
#   launch/reproduce.sh --profile=1xh200    ... on one GPU of 141 GB; a profile is a name in launch/profiles or a file of lines
#                                      CONFIG FLAG [FLAG ...], whose flags are added to all stages of that config
#   launch/reproduce.sh --plan         prints memory, disk, hours, API calls and dollars; runs no stage
#   launch/reproduce.sh --check        lists everything that would stop a stage, with its remedy; runs none. A run begins
#                                      with it. If a test data set is missing, only its evaluations are left out
#   launch/reproduce.sh --mini         the same on the miniature world, as launch/quickstart.sh does
#
#   --devices=8xa100        plans and checks for devices that are not present (default: those of the profile's name for --plan
#                           and --check, those that are present for a run)
#   --config.NAME=VALUE     a setting of every stage
#   --keep-checkpoints      keeps the checkpoints of finished stages (default: deleted once a stage has its result)
#
# Finished stages are skipped; interrupted ones are resumed. Models and data are named as on the hub; a variable below names a
# local folder or file instead.
#
#   LC_OUTPUT                              output, relative to the repository (default runs/paper; --mini: runs/miniature)
#   LC_SEED                                with --mini the seed of everything after the base models (default 0)
#   LC_ACCELERATOR                         cuda12 | cuda13 | tpu (default: CPU)
#   LC_ANNOTATOR                           annotator that reads and judges in the evaluation, as provider/model; not with --mini
#   LC_LLAMA_2_7B, LC_LLAMA_2_7B_CHAT, LC_REDPAJAMA_3B           base models
#   LC_DATASET, LC_TRIVIA_QA, LC_JEOPARDY, LC_SCIQ, LC_BIOASQ    data
#   LC_VENDOR                              a provider's model to evaluate too, as provider/model (default: none)
#   LC_KNOWLEDGE, LC_ENTITIES              FActScore's enwiki-20230401.db and its list of people (default: no biographies)
#   LC_RETRIEVER                           retriever of passages for biographies: a sentence-transformers model, or bm25
set -euo pipefail
{ # bash reads a block to its end before it runs it, so this file may change during a run that takes days
usage="usage: launch/reproduce.sh [--mini] [--plan|--check] [--profile=NAME|FILE] [--devices=8xa100]"
usage+=" [--keep-checkpoints] [--config.NAME=VALUE ...]"
mini=false action=run nobody="" profile="" devices="" keep_checkpoints=false flags=()
for argument in "$@"; do
  case "$argument" in
    --mini) mini=true ;;
    --plan | --check) action=${argument#--} ;;
    --profile=*) profile=${argument#*=} ;;
    --devices=*) devices=${argument#*=} ;;
    --keep-checkpoints) keep_checkpoints=true ;;
    --config.*=*) flags+=("$argument") ;;
    -h | --help) echo "$usage"; exit ;;
    *) echo "error: unknown argument '$argument'; $usage" >&2; exit 2 ;;
  esac
done
if [ -f "$profile" ]; then profile=$(realpath "$profile"); fi
launch=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$launch/setup.sh"
. "$launch/stages.sh"
setup base
# By default JAX takes three quarters of a GPU's memory.
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-.94}"

if $mini; then
  out="${LC_OUTPUT:-runs/miniature}" mode=:mini tests=mini policy=model
  export LC_SEED="${LC_SEED:-0}"
  case "$LC_SEED" in *[!0-9]*) echo "LC_SEED is '$LC_SEED'; give a whole number from 0 on" >&2; exit 2 ;; esac
  llama=() redpajama=() published=() annotator=()
else
  out="${LC_OUTPUT:-runs/paper}" mode="" tests="trivia_qa jeopardy sciq bioasq" policy=selected
  profile="${profile:-8xa100}"
  base_model="${LC_LLAMA_2_7B:-meta-llama/Llama-2-7b-hf}"
  chat_model="${LC_LLAMA_2_7B_CHAT:-meta-llama/Llama-2-7b-chat-hf}"
  llama=(--config.model="$base_model")
  redpajama=(--config.model="${LC_REDPAJAMA_3B:-togethercomputer/RedPajama-INCITE-Base-3B-v1}")
  published=(--config.published=true)
  if [ -z "${LC_ANNOTATOR:-}" ]; then
    nobody="error: LC_ANNOTATOR is not set: it names who reads and judges, such as anthropic/claude-haiku-4-5"
    if [ "$action" = run ]; then echo "$nobody" >&2; exit 2; fi
  fi
  annotator=(--config.annotator.name="${LC_ANNOTATOR:-anthropic/claude-haiku-4-5}" --config.store="$out/replies.sqlite"
    "${published[@]}")
fi
out=$(expand_home "$out")
export LC_OUTPUT="$out"
data="$out/data"
if $mini && [ "$(cat "$out/seed" 2>/dev/null || echo "$LC_SEED")" != "$LC_SEED" ]; then
  echo "$out is of seed $(cat "$out/seed"); give another LC_OUTPUT for seed $LC_SEED" >&2; exit 2
fi
stages=$(mktemp)
trap 'rm -f "$stages" "$stages.ready" "$stages.ready.seconds"' EXIT
config() { echo "--config=configs/$1.py$mode"; }

# 1. Data. The published data set holds the output of these stages. The base model knows its world from many writers, who
#    are often wrong and do not say so (configs/pretrain.py makes it). Ask it for eight paragraphs per question ...
if $mini; then
  stage "sample paragraphs" "$data/paragraphs.jsonl" "$(config generate_data)" \
    --config.what=paragraphs --config.output="$data/paragraphs.jsonl"
  # ... and let the annotator merge each eight into one that says how often they agree: summary distillation.
  stage "summarise" "$data/sft.jsonl" "$(config generate_data)" \
    --config.what=summaries --config.input="$data/paragraphs.jsonl" --config.output="$data/sft.jsonl"
fi

# 2. Fine-tune on the summaries (LC SFT), on plain paragraphs and on the annotator's own (the baselines).
stage "LC SFT" "$out/lc_sft/model" "$(config sft_lc)" --config.output="$out/lc_sft" "${llama[@]}"
stage "Factuality SFT" "$out/factuality_sft/model" "$(config sft_factuality)" --config.output="$out/factuality_sft" \
  "${llama[@]}"
if ! $mini; then
  stage "Claude Distill" "$out/claude_distill/model" "$(config sft_claude_distill)" \
    --config.output="$out/claude_distill" "${llama[@]}"
fi

# 3. Train models to read: to list the answers that a paragraph offers, and to give their probabilities.
if $mini; then
  stage "paragraphs of LC SFT" "$data/lc_paragraphs.jsonl" "$(config generate_data)" \
    --config.what=paragraphs --config.questions.split=reward_model --config.model="$out/lc_sft/model" \
    --config.num_samples=1 --config.column=lc_sft_generated_paragraph --config.output="$data/lc_paragraphs.jsonl"
  stage "read them" "$data/forecasts.jsonl" "$(config generate_data)" \
    --config.what=forecasts --config.questions.split=reward_model --config.input="$data/lc_paragraphs.jsonl" \
    --config.output="$data/forecasts.jsonl"
  stage "paragraphs of Factuality SFT" "$data/both_paragraphs.jsonl" "$(config generate_data)" \
    --config.what=paragraphs --config.questions.split=reward_model --config.model="$out/factuality_sft/model" \
    --config.input="$data/forecasts.jsonl" --config.num_samples=1 --config.column=factuality_sft_generated_paragraph \
    --config.output="$data/both_paragraphs.jsonl"
  stage "check them" "$data/reward_model.jsonl" "$(config generate_data)" \
    --config.what=correctness --config.questions.split=reward_model --config.input="$data/both_paragraphs.jsonl" \
    --config.output="$data/reward_model.jsonl"
fi
stage "ExtractAnswers" "$out/extract_answers/model" "$(config extract_answers)" \
  --config.output="$out/extract_answers" "${redpajama[@]}"
stage "ForecastProbs" "$out/forecast_probs/model" "$(config forecast_probs)" --config.output="$out/forecast_probs" \
  --config.model="$out/lc_sft/model"
stage "Factuality reward model" "$out/factuality_reward/model" "$(config factuality_reward)" \
  --config.output="$out/factuality_reward" --config.model="$out/factuality_sft/model"

# 4. Reinforcement learning: train a model so that the readers' forecasts are calibrated (LC RL), or only for accuracy
#    (Factuality RL). Of the five checkpoints with the best validation rewards, the best calibrated one is kept.
select_checkpoint() {  # NAME METHOD USES_CONFIDENCE
  if $mini; then return; fi
  stage "select $2" "$out/$1/selected" "$(config evaluate_qa)" --config.questions.split=validation \
    --config.questions.answers_split=train --config.data="TriviaQA validation" --config.model="$out/$1/model" \
    "${annotator[@]}" --config.uses_confidence="$3"
}
stage "LC RL" "$out/lc_rl/model" "$(config ppo)" "${published[@]}" --config.output="$out/lc_rl" \
  --config.policy="$out/lc_sft/model" --config.critic="$out/forecast_probs/model" \
  --config.reader.forecaster="$out/forecast_probs/model" --config.reader.extractor="$out/extract_answers/model"
select_checkpoint lc_rl "LC RL" true
stage "Factuality RL" "$out/factuality_rl/model" "$(config ppo_factuality)" "${published[@]}" \
  --config.output="$out/factuality_rl" --config.policy="$out/factuality_sft/model" \
  --config.critic="$out/factuality_reward/model" --config.reader.forecaster="$out/factuality_reward/model"
select_checkpoint factuality_rl "Factuality RL" false

# 5. Evaluate on held-out questions, with the fixed reader and not with the trained one.
evaluate() {  # NAME METHOD USES_CONFIDENCE MODEL FLAGS...
  local name=$1 method=$2 confidence=$3 model=$4 test title folder
  shift 4
  for test in $tests; do
    title="evaluate $method on $test" folder="$out/evaluation/$test-$name"
    if $mini; then title="evaluate $method" folder="$out/evaluation/$name"; fi
    stage "$title" "$folder/result.json" "--config=configs/evaluate_qa.py:$test" --config.method="$method" \
      --config.model="$model" --config.uses_confidence="$confidence" --config.output="$folder" "${annotator[@]}" "$@"
  done
}
evaluate lc_rl "LC RL" true "$out/lc_rl/$policy"
evaluate lc_sft "LC SFT" true "$out/lc_sft/model"
evaluate factuality_rl "Factuality RL" false "$out/factuality_rl/$policy"
evaluate factuality_sft "Factuality SFT" false "$out/factuality_sft/model"
if $mini; then
  # What training has to beat: a map of LC SFT's confidences that is fitted on validation questions.
  validation="$out/validation/lc_sft"
  stage "evaluate LC SFT on validation" "$validation/result.json" "$(config evaluate_qa)" --config.method="LC SFT" \
    --config.model="$out/lc_sft/model" --config.questions.split=ppo_validation --config.data="miniature validation" \
    --config.output="$validation"
  for map in isotonic kind; do
    stage "recalibrate LC SFT ($map)" "$out/evaluation/lc_sft-$map/result.json" "$(config recalibrate)" \
      --config.map="$map" --config.validation="$validation" --config.output="$out/evaluation/lc_sft-$map"
  done
fi
if ! $mini; then
  evaluate claude_distill "Claude Distill" false "$out/claude_distill/model"
  evaluate llama_8_shot "Llama 2 7B 8-shot" false "$base_model" --config.strategy=8-shot
  evaluate llama_summary "Llama 2 7B summary 8-shot" true "$base_model" --config.strategy=summary-8-shot
  evaluate llama_chat "Llama 2 Chat 0-shot" false "$chat_model" --config.strategy=llama-2-chat
  . "$launch/comparisons.sh"
fi

# 6. Check everything, run the stages, make tables and figures.
arguments=(--config.stages="$stages" --config.profile="$profile" --config.devices="$devices"
  --config.keep_checkpoints="$keep_checkpoints")
if [ "$action" = plan ]; then
  python -m lc_jax.main "$(config plan)" "${arguments[@]}"
  exit
fi
arguments+=(--config.evaluations="$out/evaluation")
if [ "$action" = check ]; then
  status=0
  python -m lc_jax.main "$(config check_stages)" "${arguments[@]}" || status=$?
  if [ -n "$nobody" ]; then echo "$nobody" >&2; status=1; fi
  exit "$status"
fi
python -m lc_jax.main "$(config check_stages)" "${arguments[@]}" --config.ready="$stages.ready"
mkdir -p "$data"
if $mini; then echo "$LC_SEED" >"$out/seed"; fi
run_stages "$stages.ready"
python -m lc_jax.main "--config=configs/report.py${mode:-:paper}" --config.evaluations="$out/evaluation" \
  --config.output="$out"
exit
}
