#!/usr/bin/env bash
# Trains a model to state calibrated confidence, on questions with short answers, and reports the results.
#
#   launch/calibrate.sh --model=HuggingFaceTB/SmolLM2-135M-Instruct --questions=geonames:cities
#   launch/calibrate.sh --model=MODEL --questions=FILE --plan     prints memory, disk, hours and requests; trains nothing
#   launch/calibrate.sh --model=MODEL --questions=FILE --check    lists everything that would stop a stage, with its remedy
#
#   --model=MODEL           a checkpoint: a folder, a name on the hub, or a .gguf file. A chat model is trained and evaluated
#                           through its chat template, except for few-shot prompts (also for sampling), which are plain text
#   --questions=DATA        rows with `question` and `answer` (and `aliases`, `kind`): a file, a folder, a data set on the
#                           hub, or geonames:cities
#   --columns=OURS=YOURS    maps columns of --questions and --test that have other names, separated by commas:
#                           question=query,answer=target
#   --test=NAME=DATA        more test questions; may be given several times
#   --limit=N               maximum number of questions of each data set, drawn at random (default 0: all)
#   --output=FOLDER         output folder (default runs/calibrate)
#   --annotator=NAME        annotator that writes consensus answers, reads and judges (default rules/one-answer: rules, no
#                           model; rules/short-answer: the same, and a consensus states up to three answers)
#   --reader=rules|models   reader of LC RL: the rules, or models that are trained for it (default: rules with an annotator
#                           rules/..., models with any other)
#   --seeds=0,1             seeds of training, each with its own models (default 0)
#   --profile=NAME          settings: a name in launch/profiles or a file (default calibrate-small; calibrate-7b for 7B)
#   --devices=8xa100        plans and checks for devices that are not present
#   --config.NAME=VALUE     a setting that all stages have, such as --config.mesh.tensor=2
#   --keep-checkpoints      keeps the checkpoints of finished stages (default: deleted once a stage has its result)
#
# Finished stages are skipped; interrupted ones are resumed. LC_ACCELERATOR is cuda12, cuda13 or tpu (default: CPU).
set -euo pipefail
{ # bash reads a block to its end before it runs it, so this file may change during a run that takes days
usage="usage: launch/calibrate.sh --model=FOLDER|HUB|FILE.gguf --questions=DATA [--columns=OURS=YOURS] [--test=NAME=DATA]
  [--limit=N] [--output=FOLDER] [--annotator=NAME] [--reader=rules|models] [--seeds=0,1] [--profile=NAME] [--plan|--check]
  [--devices=8xa100] [--keep-checkpoints] [--config.NAME=VALUE ...]"
model="" questions="" columns="" limit=0 out=runs/calibrate annotator=rules/one-answer reader="" seeds=0 action=run
profile=calibrate-small devices="" keep_checkpoints=false tests=() flags=()
for argument in "$@"; do
  value=${argument#*=}
  case "$argument" in
    --model=*) model=$value ;;
    --questions=*) questions=$value ;;
    --columns=*) columns=$value ;;
    --test=*=*) tests+=("$value") ;;
    --limit=*) limit=$value ;;
    --output=?*) out=$value ;;
    --annotator=*) annotator=$value ;;
    --reader=rules | --reader=models) reader=$value ;;
    --seeds=*) seeds=$value ;;
    --profile=*) profile=$value ;;
    --plan | --check) action=${argument#--} ;;
    --devices=*) devices=$value ;;
    --keep-checkpoints) keep_checkpoints=true ;;
    --config.*=*) flags+=("$argument") ;;
    -h | --help) echo "$usage"; exit ;;
    *) printf "error: unknown argument '%s'\n%s\n" "$argument" "$usage" >&2; exit 2 ;;
  esac
done
if [ -z "$model" ] || [ -z "$questions" ]; then
  printf 'error: give --model and --questions\n%s\n' "$usage" >&2; exit 2
fi
names=" test train validation sft ppo shots prompts prompts_percentage "
for test in ${tests[@]+"${tests[@]}"}; do
  name=${test%%=*}
  case "$names" in *" $name "*) echo "error: --test=$test: the name $name is taken; give another" >&2; exit 2 ;; esac
  case "$name" in "" | *[!A-Za-z0-9_-]*)
    echo "error: --test=$test: write NAME=DATA, with letters, digits, - and _ in NAME" >&2; exit 2 ;;
  esac
  names="$names$name "
done
case "$seeds" in "" | *[!0-9,]* | ,* | *, | *,,*) echo "error: --seeds=$seeds: give whole numbers with commas between, such as 0,1" >&2; exit 2 ;; esac
if [ -z "$reader" ]; then
  case "$annotator" in rules/*) reader=rules ;; *) reader=models ;; esac
fi
if [ -f "$profile" ]; then profile=$(realpath "$profile"); fi
here=$PWD  # relative paths are seen from here, whatever folder the stages run in
launch=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
. "$launch/setup.sh"
. "$launch/stages.sh"
setup base
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-.94}"
absolute() {  # PATH: an existing file or folder by its whole path; anything else, such as a name of the hub, as it is
  local path
  path=$(expand_home "$1")
  case "$path" in /*) ;; *) if [ -e "$here/$path" ]; then path="$here/$path"; fi ;; esac
  echo "$path"
}
out=$(expand_home "$out") model=$(absolute "$model") questions=$(absolute "$questions")
case "$out" in /*) ;; *) out="$here/$out" ;; esac
data="$out/data"
stages=$(mktemp)
trap 'rm -f "$stages" "$stages".*' EXIT
config() { echo "--config=configs/$1.py"; }
own=(--config.questions.answers= --config.questions.split=)

# 1. Split the questions (at once, even for a plan). The sizes of later stages depend on the number of questions; the split
#    writes them to sizes.flags, which is added to the profile.
ready() {  # PROFILE DEVICES: checks the stages so far, and writes those that can run
  python -m lc_jax.main "$(config check_stages)" --config.stages="$stages" --config.profile="$1" \
    --config.devices="$2" --config.keep_checkpoints="$keep_checkpoints" --config.evaluations="$out/evaluation" \
    --config.ready="$stages.ready"
}
# Results of another model or of other questions are not taken for those of this run.
settings=$(printf '%s\n' "--model=$model" "--questions=$questions" "--columns=$columns" "--limit=$limit" \
  "--annotator=$annotator" "--reader=$reader")
if [ -e "$out/settings" ] && [ "$(cat "$out/settings")" != "$settings" ]; then
  echo "error: $out is of a run with other settings; give another --output, or these:" $(cat "$out/settings") >&2; exit 2
fi
stage "split the questions" "$data/test.jsonl" "$(config split_questions)" --config.questions.source="$questions" \
  --config.questions.columns="$columns" --config.output="$data" --config.limit="$limit"
for test in ${tests[@]+"${tests[@]}"}; do
  renamed=$columns
  case "${test#*=}" in geonames:*) renamed="" ;; esac
  stage "read the questions of ${test%%=*}" "$data/${test%%=*}/test.jsonl" "$(config split_questions)" \
    --config.questions.source="$(absolute "${test#*=}")" --config.only_test=true --config.output="$data/${test%%=*}" \
    --config.training="$data" --config.questions.columns="$renamed" --config.limit="$limit"
done
case "$model" in
  *.gguf)
    if [ "${LC_SETUP:-}" != none ] && ! python -c "import gguf" 2>/dev/null; then install_package train,gguf; fi
    stage "convert the GGUF file" "$out/model/config.json" "$(config convert)" --config.source="$model" \
      --config.destination="$out/model"
    model="$out/model" ;;
esac
missing=$(cut -f 2 "$stages" | while read -r result; do if [ ! -e "$result" ]; then echo "$result"; fi; done)
if [ -n "$missing" ]; then
  ready "$profile" "" >/dev/null
  run_stages "$stages.ready"
fi
echo "$settings" >"$out/settings"
profile_file=$profile
if [ ! -f "$profile" ]; then profile_file="$launch/profiles/$profile.flags"; fi
cat "$profile_file" "$data/sizes.flags" >"$stages.flags"

num_validation=$(grep -c "" "$data/validation.jsonl") || true
if [ "$num_validation" -lt 30 ]; then
  echo "$num_validation validation questions are too few for recalibration: its rows are left out" >&2
fi

# 2. Sample what the model answers, and how often: several samples per question become a consensus. The rules
#    state the percentage of the other samples that agree; a language model follows lc_jax/prompts/templates/summarize.txt.
by_model=(--config.model="$model" --config.prompt_dir="$data/prompts")
annotate=(--config.annotator.name="$annotator")
sample() {  # NAME QUESTIONS: stages that make $data/NAME.summaries.jsonl
  stage "sample answers ($1)" "$data/$1.samples.jsonl" "$(config generate_data)" "${own[@]}" "${by_model[@]}" \
    --config.what=paragraphs --config.in_context=true --config.questions.source="$2" \
    --config.output="$data/$1.samples.jsonl"
  stage "state their consensus ($1)" "$data/$1.summaries.jsonl" "$(config generate_data)" "${own[@]}" "${annotate[@]}" \
    --config.what=summaries --config.questions.source="$2" --config.input="$data/$1.samples.jsonl" \
    --config.output="$data/$1.summaries.jsonl"
}
sample sft "$data/sft.jsonl"

# 3. Evaluation: on the test questions and on those of --test.
evaluate() {  # FOLDER QUESTIONS DATA METHOD FLAGS...
  local folder=$1 source=$2 title=$3 method=$4
  shift 4
  stage "evaluate $method on $title$of_seed" "$folder/result.json" "$(config evaluate_qa):own" "${own[@]}" "${annotate[@]}" \
    --config.questions.source="$source" --config.data="$title" --config.method="$method" --config.output="$folder" \
    --config.store="$out/replies.sqlite" "$@"
}
each_test() {  # FUNCTION ARGUMENTS...: calls FUNCTION with the name and the file of each test, then the arguments
  local function=$1 test
  shift
  "$function" test "$data/test.jsonl" "$@"
  for test in ${tests[@]+"${tests[@]}"}; do "$function" "${test%%=*}" "$data/${test%%=*}/test.jsonl" "$@"; done
}
evaluate_base() {  # NAME QUESTIONS: the model before training
  local folder="$out/evaluation/$1"
  evaluate "$folder-few-shot" "$2" "$1" "few shots" "${by_model[@]}" --config.strategy=few-shot \
    --config.uses_confidence=false --config.temperature=0
  evaluate "$folder-percentage" "$2" "$1" "asked for a percentage" --config.model="$model" --config.strategy=few-shot \
    --config.prompt_dir="$data/prompts_percentage" --config.temperature=0
  evaluate "$folder-own-probability" "$2" "$1" "own probability" "${by_model[@]}" --config.strategy=own-probability \
    --config.temperature=0
  sample "$1" "$2"
  evaluate "$folder-samples" "$2" "$1" "agreement of samples" --config.paragraphs="$data/$1.summaries.jsonl" \
    --config.column=claude_summary
}
evaluate_trained() {  # NAME QUESTIONS RUN METHOD SEED: a trained model, then recalibrated on the validation questions
  local folder="$out/evaluation/$1-$3-seed$5"
  evaluate "$folder" "$2" "$1" "$4" --config.model="$out/$3/seed$5/model" --config.seed="$5"
  if [ "$num_validation" -lt 30 ]; then return; fi  # too few for a fit
  stage "recalibrate $4 on $1$of_seed" "$folder-isotonic/result.json" "$(config recalibrate)" --config.evaluation="$folder" \
    --config.validation="$out/validation/$3-seed$5" --config.output="$folder-isotonic"
}
trained() {  # RUN METHOD SEED
  evaluate "$out/validation/$1-seed$3" "$data/validation.jsonl" validation "$2" \
    --config.model="$out/$1/seed$3/model" --config.seed="$3"
  each_test evaluate_trained "$1" "$2" "$3"
}
train_readers() {  # SEED: lets LC SFT write paragraphs, and trains models to read them as the annotator does
  local written="$data/readers.seed$1.paragraphs.jsonl" read="$data/readers.seed$1.jsonl"
  local extractor="$out/extract_answers/seed$1" forecaster="$out/forecast_probs/seed$1"
  stage "paragraphs of LC SFT, seed $1" "$written" "$(config generate_data)" "${own[@]}" --config.what=paragraphs \
    --config.questions.source="$data/ppo.jsonl" --config.model="$out/lc_sft/seed$1/model" --config.num_samples=1 \
    --config.column=lc_sft_generated_paragraph --config.seed="$1" --config.output="$written"
  stage "read them, seed $1" "$read" "$(config generate_data)" "${own[@]}" "${annotate[@]}" --config.what=forecasts \
    --config.questions.source="$data/ppo.jsonl" --config.input="$written" --config.output="$read"
  for reader_model in extract_answers forecast_probs; do
    stage "$reader_model, seed $1" "$out/$reader_model/seed$1/model" "$(config $reader_model)" --config.model="$model" \
      --config.data.rows.source="$read" --config.data.rows.split= --config.data.rows.questions="$data/ppo.jsonl" \
      --config.data.rows.questions_split= --config.seed="$1" --config.output="$out/$reader_model/seed$1"
  done
  reading=(--config.reader.extractor="$extractor/model" --config.reader.forecaster="$forecaster/model"
    --config.critic="$forecaster/model")
}
of_seed=""
each_test evaluate_base

# 4. Train the model to write the statements (LC SFT), then to calibrate them (LC RL).
for seed in ${seeds//,/ }; do
  of_seed=", seed $seed"
  lc_sft="$out/lc_sft/seed$seed" lc_rl="$out/lc_rl/seed$seed"
  stage "LC SFT, seed $seed" "$lc_sft/model" "$(config sft_lc)" --config.model="$model" --config.output="$lc_sft" \
    --config.data.rows.source="$data/sft.summaries.jsonl" --config.data.rows.split= --config.seed="$seed"
  reading=(--config.reader.kind=rules --config.reader.extractor= --config.reader.forecaster= --config.critic=
    --config.reward.normalization=0 --config.reward.epsilon=1e-6)
  if [ "$reader" = models ]; then train_readers "$seed"; fi
  stage "LC RL, seed $seed" "$lc_rl/model" "$(config ppo)" --config.policy="$lc_sft/model" --config.output="$lc_rl" \
    --config.questions.source="$data/ppo.jsonl" "${own[@]}" --config.validation.source="$data/validation.jsonl" \
    --config.validation.answers= --config.validation.split= --config.seed="$seed" "${reading[@]}"
  trained lc_sft "LC SFT" "$seed"
  trained lc_rl "LC RL" "$seed"
done

# If a row of the report has no number because no answer of its model could be judged (exit code 3), so that there is nothing
# to recalibrate either, the other rows are still made. Anything else that fails ends the script.
left_out=()
leave_out() {  # NAME CODE
  case "$2 $1" in "3 evaluate "* | "1 recalibrate "*) left_out+=("$1") ;; *) return "$2" ;; esac
}

# 5. Check everything, run the stages, report.
if [ "$action" = plan ]; then
  python -m lc_jax.main "$(config plan)" --config.stages="$stages" --config.profile="$stages.flags" \
    --config.devices="$devices" --config.keep_checkpoints="$keep_checkpoints"
  exit
fi
if [ "$action" = check ]; then
  python -m lc_jax.main "$(config check_stages)" --config.stages="$stages" --config.profile="$stages.flags" \
    --config.devices="$devices" --config.keep_checkpoints="$keep_checkpoints" --config.evaluations="$out/evaluation"
  exit
fi
ready "$stages.flags" "$devices"
run_stages "$stages.ready"
baseline="LC SFT"
if ! grep -qs '"method": "LC SFT"' "$out"/evaluation/*/result.json; then baseline=""; fi
python -m lc_jax.main "$(config report)" --config.evaluations="$out/evaluation" --config.output="$out" \
  --config.methods='("few shots", "asked for a percentage", "own probability", "agreement of samples", "LC SFT", "LC RL")' \
  --config.baseline="$baseline"
if [ ${#left_out[@]} -gt 0 ]; then
  printf 'left out: %s (the error is above)\n' "${left_out[@]}" >&2
  exit 1
fi
exit
}
