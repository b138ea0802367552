# Adds the stages of the paper's comparisons: the summaries themselves, a provider's model, and biographies. reproduce.sh reads
# this file, which uses its variables and functions.

# The consensus of eight paragraphs itself, for each test question, as in summary distillation.
for test in $tests; do
  sampled="$data/$test-paragraphs.jsonl" summarised="$data/$test-summaries.jsonl"
  stage "sample paragraphs on $test" "$sampled" "--config=configs/generate_data.py:$test" --config.what=paragraphs \
    --config.model="$base_model" --config.in_context=true --config.output="$sampled" "${published[@]}"
  stage "summarise on $test" "$summarised" "--config=configs/generate_data.py:$test" --config.what=summaries \
    --config.input="$sampled" --config.output="$summarised" "${annotator[@]}"
  folder="$out/evaluation/$test-summaries"
  stage "evaluate summaries on $test" "$folder/result.json" "--config=configs/evaluate_qa.py:$test" \
    --config.method="Direct summary evaluation" --config.paragraphs="$summarised" --config.column=claude_summary \
    --config.output="$folder" "${annotator[@]}"
done

# A provider's model, on the first 1,000 questions as in the paper.
vendor="${LC_VENDOR:-}"
vendor_name="${vendor#*/}"
if [ -n "$vendor" ]; then
  evaluate_vendor() {  # NAME METHOD USES_CONFIDENCE STRATEGY
    evaluate "vendor_$1" "$vendor_name $2" "$3" "" --config.writer.name="$vendor" --config.strategy="$4" \
      --config.limit=1000
  }
  evaluate_vendor 0_shot "0-shot" false 0-shot
  evaluate_vendor 8_shot "8-shot" false 8-shot
  evaluate_vendor uncertainty "asked for uncertainty" true uncertainty
  evaluate_vendor summary "summary 8-shot" true summary-8-shot
else
  echo "Without a provider's model (LC_VENDOR=provider/model names one)." >&2
fi

# Biographies of 500 people, claim by claim.
biographies() {  # NAME METHOD USES_CONFIDENCE MODEL FLAGS...
  local name=$1 method=$2 confidence=$3 model=$4 folder="$out/evaluation/biographies-$1"
  shift 4
  stage "biographies of $method" "$folder/result.json" --config=configs/evaluate_biography.py \
    --config.method="$method" --config.model="$model" --config.uses_confidence="$confidence" \
    --config.knowledge="$LC_KNOWLEDGE" --config.entities="$LC_ENTITIES" --config.output="$folder" \
    ${LC_RETRIEVER:+--config.retriever="$LC_RETRIEVER"} "${annotator[@]}" "$@"
}
if [ -n "${LC_KNOWLEDGE:-}" ] && [ -n "${LC_ENTITIES:-}" ]; then
  biographies lc_rl "LC RL" true "$out/lc_rl/$policy"
  biographies lc_sft "LC SFT" true "$out/lc_sft/model"
  biographies factuality_rl "Factuality RL" false "$out/factuality_rl/$policy"
  biographies factuality_sft "Factuality SFT" false "$out/factuality_sft/model"
  biographies claude_distill "Claude Distill" false "$out/claude_distill/model"
  biographies llama_chat "Llama 2 Chat 0-shot" false "$chat_model" --config.strategy=llama-2-chat
  if [ -n "$vendor" ]; then
    biographies vendor_0_shot "$vendor_name 0-shot" false "" --config.writer.name="$vendor" --config.strategy=0-shot
    biographies vendor_uncertainty "$vendor_name asked for uncertainty" true "" --config.writer.name="$vendor" \
      --config.strategy=uncertainty
  fi
else
  echo "Without biographies: set LC_KNOWLEDGE to FActScore's enwiki-20230401.db (or a file that" \
    "configs/build_knowledge.py wrote), and LC_ENTITIES to its data/unlabeled/prompt_entities.txt." >&2
fi
