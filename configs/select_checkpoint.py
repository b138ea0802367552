"""Selects a model: copies the best calibrated of a PPO run's candidates to <run>/selected (paper section 5).

launch/select.sh runs/ppo --config.annotator.name=anthropic/claude-haiku-4-5      evaluates the candidates first

":mini" is for a run of ppo.py:mini with --config.ppo.num_candidates=2: without that setting it has no candidates.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    config = base.base_config("select_checkpoint", mode)
    config.run = f"{base.root()}/lc_rl" if mode == "mini" else "runs/ppo"  # folder of the PPO run
    return config
