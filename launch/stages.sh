# What a script of several stages shares. To be sourced after setup.sh.

# stage NAME RESULT FLAGS...: says what is done, and does it unless its result is there. With LC_PLAN=FILE it only adds
# the stage to that file, for configs/plan.py.
stage() {
  local name=$1 result=$2 started=$SECONDS
  shift 2
  if [ -n "${LC_PLAN:-}" ]; then
    printf '%s\t' "$name" "$@" >>"$LC_PLAN"
    printf '\n' >>"$LC_PLAN"
    return
  fi
  if [ -e "$result" ]; then
    echo "== $name: done before ($result)"
    return
  fi
  echo "== $name"
  python -m lc_jax.main "$@"
  echo "== $name: $((SECONDS - started)) s"
}
