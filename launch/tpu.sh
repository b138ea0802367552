#!/usr/bin/env bash
# Runs one experiment on an existing Cloud TPU slice: copies this checkout's HEAD to every host, installs it and starts the run.
#   LC_TPU=my-v5p-8 LC_ZONE=us-east5-a launch/tpu.sh --config=configs/ppo.py --config.output=/mnt/runs/ppo
# To create the slice:
#   gcloud compute tpus tpu-vm create my-v5p-8 --zone=us-east5-a --accelerator-type=v5p-8 --version=v2-alpha-tpuv5
#
# jax.distributed reads the coordinator and its own rank from the TPU's metadata. The output must be in a mounted folder that
# all hosts share; the same command resumes after a pre-emption. Closing the terminal ends the run, so start it inside tmux.
set -euo pipefail
: "${LC_TPU:?name of the TPU slice}" "${LC_ZONE:?zone of the TPU slice}"
if [ $# -eq 0 ]; then echo "usage: LC_TPU=name LC_ZONE=zone launch/tpu.sh --config=configs/ppo.py ..." >&2; exit 2; fi
cd "$(dirname "${BASH_SOURCE[0]}")/.."

archive=$(mktemp -d)/lc_jax.tar.gz
trap 'rm -rf "$(dirname "$archive")"' EXIT
git archive --prefix=lc_jax/ --output="$archive" HEAD
gcloud compute tpus tpu-vm scp "$archive" "$LC_TPU:lc_jax.tar.gz" --zone="$LC_ZONE" --worker=all

# Keys that the run needs. Anyone who can list the processes of this machine or of the hosts can see them.
environment=""
for name in HF_TOKEN WANDB_API_KEY ANTHROPIC_API_KEY OPENAI_API_KEY; do
  if [ -n "${!name:-}" ]; then environment+="export $name=$(printf '%q' "${!name}"); "; fi
done
arguments=$(printf '%q ' "$@")
gcloud compute tpus tpu-vm ssh "$LC_TPU" --zone="$LC_ZONE" --worker=all --command="bash -c $(printf '%q' "set -euo pipefail
${environment}export LC_ACCELERATOR=tpu
tar -xzf lc_jax.tar.gz
cd lc_jax
. launch/setup.sh
setup base
python -m lc_jax.main $arguments")"
