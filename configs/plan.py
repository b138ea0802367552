"""Plan of the memory, disk, hours and requests of all stages of a script: launch/reproduce.sh [--mini] --plan.

The stages are in a file with one line each: a name, what the stage makes, and flags of lc_jax.main, with tabs between.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    config = base.base_config("plan", mode)
    config.stages = ""  # the file of stages
    config.profile = ""  # of launch/profiles, or a file: flags for all stages of a config
    config.devices = ""  # such as 8xa100; "": those of the profile's name, or those that are here
    config.keep_checkpoints = False  # as launch/reproduce.sh --keep-checkpoints
    config.figures = base.FIGURES  # measured on one device, by `python -m benchmarks.NAME --full`
    return config
