"""Plans memory, disk, hours and requests of all stages of a script: launch/reproduce.sh [--mini] --plan.

The scripts write the file of stages: one line per stage, with its name, its result and its flags of lc_jax.main,
separated by tabs.
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
