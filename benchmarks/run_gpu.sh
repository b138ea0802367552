#!/usr/bin/env bash
# Every benchmark on one H100 or H200, correctness first, in under nine minutes; JSON goes to benchmarks/results/.
#
#   bash benchmarks/run_gpu.sh             Llama 2 7B in bfloat16, its weights made on the device
#   LC_DRY=1 bash benchmarks/run_gpu.sh    the same commands around a tiny model, on whatever device there is
#
# Each benchmark is held against float64 or transformers before it is timed. One that fails, or that would pass the
# limit, is named at the end; the others run.
#   LC_SECONDS   time for all of it (default 530)
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
export PYTHONPATH="$PWD${PYTHONPATH:+:$PYTHONPATH}"
# torch needs memory next to JAX; programs compiled in one run are there in the next.
export XLA_PYTHON_CLIENT_PREALLOCATE=false XLA_PYTHON_CLIENT_MEM_FRACTION=0.94
export JAX_COMPILATION_CACHE_DIR="${JAX_COMPILATION_CACHE_DIR:-runs/compiled}"
flag=--full
if [ -n "${LC_DRY:-}" ]; then flag=--dry-run; fi

limit=${LC_SECONDS:-530} failed=()
for name in attention logprobs generate score optimizer sft_step ppo_step; do
  left=$((limit - SECONDS))
  if [ "$left" -le 5 ]; then
    failed+=("$name (no time left)")
    continue
  fi
  echo "== $name"
  timeout "$left" python -m "benchmarks.$name" "$flag" || failed+=("$name")
done
echo "== $SECONDS s"
if [ ${#failed[@]} -gt 0 ]; then
  printf 'failed: %s\n' "${failed[@]}"
  exit 1
fi
