# What a script of several stages shares. To be sourced after setup.sh.

# stage NAME RESULT FLAGS...: adds a stage to the file $stages: a line of its name, the file or folder that it makes and
# the flags of lc_jax.main, those of all stages (the array `flags`) last, with tabs between. configs/plan.py and
# configs/check_stages.py read that file.
stage() {
  local IFS=$'\t'
  set -- "$@" ${flags[@]+"${flags[@]}"}
  printf '%s\n' "$*" >>"$stages"
}

# run_stages FILE: runs the stages of such a file in order.
run_stages() {
  local fields
  while IFS=$'\t' read -r -a fields <&3; do
    run_stage "${fields[@]}"
    free_disk "${fields[1]}"
  done 3<"$1"
}

# run_stage NAME RESULT FLAGS...: says what is done, and does it unless its result is there.
run_stage() {
  local name=$1 result=$2 started=$SECONDS
  shift 2
  if [ -e "$result" ]; then
    echo "== $name: done before ($result)"
    return
  fi
  echo "== $name"
  case "$result" in
    */selected) bash "$(dirname "${BASH_SOURCE[0]}")/select.sh" "${result%/selected}" "$@" ;;
    *) python -m lc_jax.main "$@" ;;
  esac
  echo "== $name: $((SECONDS - started)) s"
}

# free_disk RESULT: deletes what a finished stage needed to resume: the optimiser's checkpoints of a model that is
# exported, the candidates of a selection that is made. Not with keep_checkpoints=true.
free_disk() {
  if [ ! -e "$1" ] || ${keep_checkpoints:-false}; then return; fi
  case "$1" in
    */model) rm -rf "${1%/model}/checkpoints" ;;
    */selected) rm -rf "${1%/selected}"/candidates/step-*/model ;;
  esac
}
