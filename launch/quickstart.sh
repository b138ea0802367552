#!/usr/bin/env bash
# Runs the whole method on a laptop, from a base model to a linguistically calibrated one: launch/reproduce.sh, which lists the
# stages, on the miniature world.
#
#   bash launch/quickstart.sh                 all stages; finished ones are skipped, interrupted ones resumed
#   bash launch/quickstart.sh --plan          prints memory, disk and hours; runs no stage
#   bash launch/quickstart.sh --check         checks whether every stage can run; runs none
#
#   LC_OUTPUT       output folder (default runs/miniature); remove a folder in it to run that stage again
#   LC_SEED         seed of everything after the base models (default 0)
#   LC_ACCELERATOR  cuda12 | cuda13 | tpu (default: CPU)
exec bash "$(dirname "${BASH_SOURCE[0]}")/reproduce.sh" --mini "$@"
