# What a script of several stages shares. To be sourced after setup.sh.

# stage NAME RESULT FLAGS...: adds a stage to the file $stages: a line of its name, the file or folder that it makes and
# the flags of lc_jax.main, those of all stages (the array `flags`) last, with tabs between. configs/plan.py and
# configs/check_stages.py read that file.
stage() {
  local IFS=$'\t'
  set -- "$@" ${flags[@]+"${flags[@]}"}
  printf '%s\n' "$*" >>"$stages"
}

# run_stages FILE: runs the stages of such a file in order and counts them, as in "[12/17] LC RL (about 2 min; 5 min to
# the end)". FILE.seconds has the seconds that each is expected to take, a line for each stage; 0: unknown.
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

# span SECONDS: that time in words, at the pace of the stages of this run: they took `measured` in place of `expected`
# seconds. A minute more in both lets a short first stage not decide.
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

# leave_out NAME CODE: what is done where a stage ends with an exit code other than 0: the script ends with it. A script may
# continue without some stages.
leave_out() { return "$2"; }

# run_stage NAME RESULT FLAGS...: says what is done, and does it unless its result is there.
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

# free_disk RESULT: deletes what a finished stage needed to resume: the optimiser's checkpoints of a model that is
# exported, the candidates of a selection that is made. Not with keep_checkpoints=true.
free_disk() {
  if [ ! -e "$1" ] || ${keep_checkpoints:-false}; then return; fi
  case "$1" in
    */model) rm -rf "${1%/model}/checkpoints" ;;
    */selected) rm -rf "${1%/selected}"/candidates/step-*/model ;;
  esac
}
