# Makes the virtual environment and installs lc_jax into it. Source this file, then call `setup base` or `setup dev`:
#
#   . "$(dirname "${BASH_SOURCE[0]}")/setup.sh"
#   setup base        # what training needs; `setup dev` adds what the tests need
#
# Afterwards the working directory is the repository and `python` is the environment's. The installation is skipped if
# pyproject.toml and requirements.txt have not changed since the last one.
#
#   LC_ACCELERATOR   cuda12 | cuda13 | tpu: the JAX to install (default: for CPUs)
#   LC_KNOWLEDGE     if set, and LC_RETRIEVER is not bm25, sentence-transformers is installed too
#   LC_VENV          folder of the environment (default: .venv)
#   LC_SETUP         none: installs nothing and keeps the working directory; `python` on PATH must have everything (as in
#                    `lc_jax quickstart`)
#   PYTHON           interpreter that makes the environment (default: the first Python >= 3.11 that is found)

find_python() {
  local candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
    if "$candidate" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      echo "$candidate"
      return
    fi
  done
  echo "lc_jax needs Python 3.11 or newer with its venv module; name one with PYTHON=/path/to/python" >&2
  return 1
}

install_package() {  # install_package [extras]; tries three times, since a registry may fail for a moment
  local attempt
  for attempt in 1 2 3; do
    if python -m pip install -qq --editable ".${1:+[$1]}"; then return; fi
    echo "installing failed (attempt $attempt of 3)" >&2
    if [ "$attempt" -lt 3 ]; then sleep 20; fi
  done
  return 1
}

expand_home() {  # expand_home PATH; a quoted "~/x" reaches a script without expansion
  case "$1" in
    "~" | "~/"*) echo "$HOME${1#\~}" ;;
    *) echo "$1" ;;
  esac
}

setup() {
  # Large arrays are allocated and freed constantly; huge pages make that cheaper on CPUs (glibc 2.35 and newer; others ignore it).
  export GLIBC_TUNABLES=${GLIBC_TUNABLES:-glibc.malloc.hugetlb=1}
  if [ "${LC_SETUP:-}" = none ]; then return; fi
  cd "$(dirname "${BASH_SOURCE[0]}")/.." || return
  local kind=${1:-} accelerator=${LC_ACCELERATOR:-} retrieval="" venv extras python key
  if [ -n "${LC_KNOWLEDGE:-}" ] && [ "${LC_RETRIEVER:-}" != bm25 ]; then retrieval=,retrieval; fi
  venv=$(expand_home "${LC_VENV:-.venv}")
  case "$kind" in
    base) extras=${accelerator:-train}$retrieval ;;
    dev) extras=dev${accelerator:+,$accelerator} ;;
    *) echo "setup: '$kind' is neither base nor dev" >&2; return 1 ;;
  esac
  case "$accelerator" in
    ""|cuda12|cuda13|tpu) ;;
    *) echo "LC_ACCELERATOR is '$accelerator'; it may be cuda12, cuda13, tpu or empty" >&2; return 1 ;;
  esac
  if [ ! -x "$venv/bin/python" ]; then
    python=$(find_python) || return
    "$python" -m venv "$venv" || { echo "no environment could be made in $venv; name another with LC_VENV" >&2; return 1; }
  fi
  venv=$(cd "$venv" && pwd) || return
  export VIRTUAL_ENV=$venv PATH="$venv/bin:$PATH"
  hash -r

  # One stamp per kind of install; what dev installs contains what base installs.
  key="$(pwd) $accelerator$retrieval $(cat pyproject.toml requirements.txt | cksum)"
  if [ "$(cat "$venv/installed-$kind" 2>/dev/null)" = "$key" ]; then return; fi
  echo "installing lc_jax${extras:+[$extras]} into $venv (a few minutes the first time)"
  install_package "$extras" || return
  echo "$key" >"$venv/installed-base"
  if [ "$kind" = dev ]; then echo "$key" >"$venv/installed-dev"; fi
}
