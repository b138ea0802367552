#!/usr/bin/env bash
# Runs one experiment on a Slurm cluster, with one process per node that uses all GPUs of the node.
#   sbatch --nodes=2 --gpus-per-node=8 launch/slurm.sh --config=configs/ppo.py [other flags of lc_jax.main]
# Submit from the repository's root. Install once, on a machine that shares the file system:
#   LC_ACCELERATOR=cuda12 bash -c '. launch/setup.sh; setup base'
#
# jax.distributed reads the coordinator, the number of processes and its own rank from Slurm's variables. Every process gets
# SIGTERM two minutes before the time limit, so that it can save. Slurm queues a pre-empted job again by itself; after a time
# limit, submit the same command again. In both cases the run resumes from the last checkpoint.
#SBATCH --job-name=lc_jax
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task=16
#SBATCH --time=24:00:00
#SBATCH --signal=TERM@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=slurm-%j.out
set -euo pipefail
cd "${SLURM_SUBMIT_DIR:?run this with sbatch}"
if [ ! -f lc_jax/main.py ]; then echo "submit from the repository's root, not from $SLURM_SUBMIT_DIR" >&2; exit 1; fi
python=${LC_VENV:-.venv}/bin/python
if [ ! -x "$python" ]; then echo "$python is not there: install first, as this script's head says" >&2; exit 1; fi

# On Slurm jax gives a process one GPU unless told otherwise; here a process has the whole node.
JAX_LOCAL_DEVICE_IDS=$(seq -s, 0 $((${SLURM_GPUS_ON_NODE:?ask for GPUs with --gpus-per-node} - 1)))
export JAX_LOCAL_DEVICE_IDS
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.94}  # nothing else runs on these GPUs
exec srun --kill-on-bad-exit=1 --cpus-per-task="$SLURM_CPUS_PER_TASK" \
  "$python" -m lc_jax.main "$@"
