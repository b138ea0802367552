#!/usr/bin/env bash
# The whole method on a laptop: a base model goes in, a linguistically calibrated model comes out. It is the paper's own
# script, launch/reproduce.sh, on the miniature world; the stages stand there.
#
#   bash launch/quickstart.sh                 every stage; a stage whose result is there is skipped, a half-done one resumes
#
#   bash launch/quickstart.sh --plan          what it would take; runs no stage
#
#   bash launch/quickstart.sh --check         whether every stage can run; runs none
#
#   LC_OUTPUT       where everything goes (default runs/miniature); remove a folder in it to run that stage again
#   LC_SEED         seed of everything after the base models (default 0)
#   LC_ACCELERATOR  cuda12 | cuda13 | tpu (default: CPU)
exec bash "$(dirname "${BASH_SOURCE[0]}")/reproduce.sh" --mini "$@"
