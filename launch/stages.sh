# Defines functions for scripts with several stages. Source this file after setup.sh.

# stage NAME RESULT FLAGS...: adds a stage to the file $stages, as a line with its name, the file or folder that it makes and
# the flags of lc_jax.main, separated by tabs; the flags of all stages (the array `flags`) come last. configs/plan.py and
# configs/check_stages.py read that file.
stage() {
  local IFS=$'\t'
  set -- "$@" ${flags[@]+"${flags[@]}"}
  printf '%s\n' "$*" >>"$stages"
}

# run_stages FILE: runs the stages of such a file in order and counts them, as in "[12/17] LC RL (about 2 min; 5 min to
# the end)". FILE.seconds has a line for each stage: the seconds that it is expected to take; 0: unknown.
run_stages() {
  local fields seconds started number=0 left=0 expected=0 measured=0 progress times
  while IFS=$'\t' read -r -a fields <&3; do
    if [ ! -e "${fields[2]}" ]; then left=$((left + fields[0])); fi
  done 3< <(paste "$1.seconds" "$1")
  while IFS=$'\t' read -r -a fields <&3; do
    number=$((number + 1)) seconds=${fields[0]} started=$SECONDS times=""
    progress="[$number/$(grep -c "" "$1")] "
    if [ -e "${fields[2]}" ]; then seconds=0; fi
    if [ "$seconds" -gt 0 ]; then times=" (about $(span "$seconds"); $(span "$left") to the end)"; fi
    run_stage "${fields[@]:1}"
    free_disk "${fields[2]}"
    if [ "$seconds" -gt 0 ]; then
      left=$((left - seconds)) expected=$((expected + seconds)) measured=$((measured + SECONDS - started))
    fi
  done 3< <(paste "$1.seconds" "$1")
}

# span SECONDS: prints that time in words, scaled by the pace of this run, whose stages took `measured` instead of
# `expected` seconds. Adding a minute to both keeps a short first stage from dominating the estimate.
span() {
  local seconds=$(($1 * (measured + 60) / (expected + 60)))
  if [ "$seconds" -lt 100 ]; then
    echo "$seconds s"
  elif [ "$seconds" -lt 6000 ]; then
    echo "$(((seconds + 30) / 60)) min"
  else
    echo "$(((seconds + 1800) / 3600)) h"
  fi
}

# leave_out NAME CODE: called when a stage fails with an exit code; ends the script with that code. A script may redefine it to
# continue without some stages.
leave_out() { return "$2"; }

# run_stage NAME RESULT FLAGS...: prints the name of the stage, and runs it unless its result exists.
run_stage() {
  local name=$1 result=$2 started=$SECONDS
  shift 2
  if [ -e "$result" ]; then
    echo "== ${progress:-}$name: done before ($result)"
    return
  fi
  echo "== ${progress:-}$name${times:-}"
  case "$result" in
    */selected) bash "$(dirname "${BASH_SOURCE[0]}")/select.sh" "${result%/selected}" "$@" ;;
    *) python -m lc_jax.main "$@" || leave_out "$name" $? ;;
  esac
  echo "== $name: $((SECONDS - started)) s"
}

# free_disk RESULT: deletes what a finished stage no longer needs: the training checkpoints of an exported model, or the
# candidates of a finished selection. Does nothing with keep_checkpoints=true.
free_disk() {
  if [ ! -e "$1" ] || ${keep_checkpoints:-false}; then return; fi
  case "$1" in
    */model) rm -rf "${1%/model}/checkpoints" ;;
    */selected) rm -rf "${1%/selected}"/candidates/step-*/model ;;
  esac
}
