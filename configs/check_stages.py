"""Checks all stages of a script before the first one runs: launch/reproduce.sh [--mini] --check.

The scripts write the file of stages: one line per stage, with its name, its result and its flags of lc_jax.main,
separated by tabs.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    config = base.base_config("check_stages", mode)
    config.stages = ""  # the file of stages
    config.profile = ""  # of launch/profiles, or a file: flags for all stages of a config
    config.devices = ""  # such as 8xa100; "": for a run (`ready`) those that are here, or else the profile's
    config.keep_checkpoints = False  # as launch/reproduce.sh --keep-checkpoints
    config.evaluations = ""  # folder that is told which data sets are not evaluated, and why
    config.ready = ""  # file for the stages that can run, with the profile's flags; FILE.seconds: their times; "": none
    config.figures = base.FIGURES  # measured on one device, by `python -m benchmarks.NAME --full`
    return config
