#!/usr/bin/env bash
# Trains a model with each of the estimators and rewards of docs/objectives.md and reports all of them in one table, each
# with and without recalibration.
#
#   launch/compare.sh                    on the miniature: for each seed the quickstart first, then all objectives
#   launch/compare.sh --from=FOLDER      on the models and questions of a finished launch/calibrate.sh --output=FOLDER, such as
#                                        runs/real_model; with the rule-based reader
#
#   --seeds=0,1,2           seeds of training (default 0,1,2,3,4; with --from: 0)
#   --objectives=NAME,NAME  only these objectives, by the names of their folders below (default: all)
#   --profile=NAME          with --from: the profile of that run (default calibrate-small)
#   --config.NAME=VALUE     a setting of every training run
#
# All objectives start from the same LC SFT model of their seed, with the same number of questions, samples and updates.
# Finished stages are skipped; interrupted ones are resumed.
#
#   LC_OUTPUT     output folder, relative to the repository (default runs/compare)
set -euo pipefail
{ # bash reads a block to its end before it runs it, so this file may change during a run that takes hours
usage="usage: launch/compare.sh [--from=FOLDER [--profile=NAME]] [--seeds=0,1] [--objectives=NAME,NAME]
  [--config.NAME=VALUE ...]"
from="" seeds="" chosen="" profile=calibrate-small own_flags=() flags=()
for argument in "$@"; do
  value=${argument#*=}
  case "$argument" in
    --from=?*) from=$value ;;
    --seeds=*) seeds=$value ;;
    --objectives=?*) chosen=",$value," ;;
    --profile=?*) profile=$value ;;
    --config.*=*) own_flags+=("$argument") ;;
    -h | --help) echo "$usage"; exit ;;
    *) printf "error: unknown argument '%s'\n%s\n" "$argument" "$usage" >&2; exit 2 ;;
  esac
done
if [ -z "$seeds" ]; then if [ -n "$from" ]; then seeds=0; else seeds=0,1,2,3,4; fi; fi
case "$seeds" in *[!0-9,]* | ,* | *, | *,,*) echo "error: --seeds=$seeds: give whole numbers with commas between, such as 0,1" >&2; exit 2 ;; esac
launch=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
here=$PWD
. "$launch/setup.sh"
. "$launch/stages.sh"
setup base
out=$(expand_home "${LC_OUTPUT:-runs/compare}")
case "$out" in /*) ;; *) out="$PWD/$out" ;; esac
stages=$(mktemp)
trap 'rm -f "$stages" "$stages".*' EXIT

# Where the models and questions of a seed are, and what training and evaluation on them share.
if [ -n "$from" ]; then
  from=$(expand_home "$from")
  case "$from" in /*) ;; *) from="$here/$from" ;; esac
  if [ ! -e "$from/data/sizes.flags" ]; then
    echo "error: --from=$from: no data/sizes.flags there; give the --output of a run of launch/calibrate.sh" >&2; exit 2
  fi
  if [ ! -f "$profile" ]; then profile="$launch/profiles/$profile.flags"; fi
  cat "$profile" "$from/data/sizes.flags" >"$stages.flags"
  mode="" data=test log_score=log
  sources=(--config.questions.answers= --config.questions.split=)
else
  : >"$stages.flags"
  mode=:mini data=miniature log_score=decision_based
fi
models_of_seed() {  # SEED: sets `sft`, `train`, `test` and `validation`
  local folder="$out/miniature/seed$1"
  if [ -n "$from" ]; then
    sft="$from/lc_sft/seed$1"
    train=(--config.questions.source="$from/data/ppo.jsonl" "${sources[@]}" --config.validation.source="$from/data/validation.jsonl"
      --config.validation.answers= --config.validation.split= --config.reader.kind=rules --config.reader.extractor=
      --config.reader.forecaster= --config.critic="$sft/model" --config.reward.normalization=0 --config.reward.epsilon=1e-6)
    test=(--config.questions.source="$from/data/test.jsonl" "${sources[@]}" --config.annotator.name=rules/short-answer)
    validation=("${test[@]}" --config.questions.source="$from/data/validation.jsonl")
  else
    sft="$folder/lc_sft"
    train=(--config.critic="$folder/forecast_probs/model" --config.reader.forecaster="$folder/forecast_probs/model"
      --config.reader.extractor="$folder/extract_answers/model")
    test=()
    validation=(--config.questions.split=ppo_validation)
  fi
}

evaluate() {  # NAME METHOD MODEL: on the test questions, and again with a map that is fitted on the validation questions
  local folder="$out/evaluation/$1-seed$seed" fitted="$out/validation/$1-seed$seed"
  local common=("--config=configs/evaluate_qa.py${mode:-:own}" --config.method="$2" --config.model="$3"
    --config.seed="$seed")
  stage "evaluate $2" "$folder/result.json" "${common[@]}" --config.data="$data" --config.output="$folder" "${test[@]}"
  stage "evaluate $2 on validation" "$fitted/result.json" "${common[@]}" --config.data=validation \
    --config.output="$fitted" "${validation[@]}"
  stage "recalibrate $2" "$folder-isotonic/result.json" --config=configs/recalibrate.py --config.evaluation="$folder" \
    --config.validation="$fitted" --config.output="$folder-isotonic"
}
methods=()
objective() {  # NAME METHOD FLAGS...: LC RL with one objective
  local name=$1 method=$2 folder="$out/models/$1-seed$seed"
  shift 2
  known="$known$name "
  case "$chosen" in "" | *",$name,"*) ;; *) return 0 ;; esac
  methods+=("$method")
  # A profile may have another baseline and train other tokens.
  stage "train $method" "$folder/model" "--config=configs/ppo.py$mode" --config.policy="$sft/model" --config.seed="$seed" \
    --config.output="$folder" "${train[@]}" --config.ppo.baseline=leave_one_out --config.advantage.tokens=all "$@" \
    ${own_flags[@]+"${own_flags[@]}"}
  evaluate "$name" "$method" "$folder/model"
}
of_reward() {  # NAME METHOD REWARD FLAGS...: a reward of one sum with leave-one-out, without the paper's offset
  local name=$1 method=$2 reward=$3
  shift 3
  objective "$name" "$method" --config.reward.name="$reward" --config.reward.offset=0 "$@"
}
objectives() {
  # Estimators, all with the reward that LC RL has there.
  local group_mean=(--config.ppo.baseline=group_mean --config.advantage.whiten_advantages=False)
  objective rloo "RLOO" --config.reward.name="$log_score"
  objective ppo "PPO with critic" --config.reward.name="$log_score" --config.ppo.baseline=critic
  objective same_answer "RLOO, same answer" --config.reward.name="$log_score" --config.ppo.baseline=same_answer
  objective dr_grpo "Dr. GRPO" --config.reward.name="$log_score" "${group_mean[@]}" --config.loss.average=constant
  objective grpo_no_std "GRPO without std" --config.reward.name="$log_score" "${group_mean[@]}" \
    --config.loss.average=responses
  objective grpo "GRPO with std" --config.reward.name="$log_score" "${group_mean[@]}" --config.loss.average=responses \
    --config.advantage.group_std=True
  # Rewards, all with leave-one-out.
  of_reward brier "Brier" brier
  of_reward spherical "Spherical" spherical
  of_reward threshold "Threshold-weighted" threshold_weighted
  of_reward rlcr "RLCR" rlcr
  of_reward rlcr_group "RLCR, group accuracy" rlcr --config.reward.target=group_accuracy
  of_reward dcpo "RLCR, decoupled tokens" rlcr --config.advantage.tokens=decoupled
  of_reward doubt "Rewarding Doubt" rewarding_doubt --config.advantage.tokens=confidence
}

if [ ${#own_flags[@]} -gt 0 ]; then  # unknown settings are rejected before the quickstart runs
  python -m lc_jax.main "--config=configs/ppo.py$mode" "${own_flags[@]}" --help >/dev/null
fi
for seed in ${seeds//,/ }; do
  : >"$stages"
  models_of_seed "$seed"
  if [ -n "$from" ] && [ ! -e "$sft/model" ]; then
    echo "error: --from=$from has no model of seed $seed ($sft/model); run launch/calibrate.sh --seeds=$seed there" >&2
    exit 2
  fi
  methods=("LC SFT") known=" "
  evaluate lc_sft "LC SFT" "$sft/model"
  objectives
  for name in ${chosen//,/ }; do
    case "$known" in *" $name "*) ;; *) echo "error: --objectives: no $name; there are$known" >&2; exit 2 ;; esac
  done
  if [ -z "$from" ]; then
    LC_SEED="$seed" LC_OUTPUT="$out/miniature/seed$seed" bash "$launch/reproduce.sh" --mini
  fi
  python -m lc_jax.main --config=configs/check_stages.py --config.stages="$stages" --config.profile="$stages.flags" \
    --config.evaluations="$out/evaluation" --config.ready="$stages.ready"
  echo "Seed $seed of $seeds:"
  run_stages "$stages.ready"
done
order=""
for method in "${methods[@]}"; do order="$order'$method', '$method + isotonic', "; done
python -m lc_jax.main --config=configs/report.py --config.evaluations="$out/evaluation" --config.output="$out" \
  --config.methods="($order)" --config.baseline="LC SFT"
exit
}
