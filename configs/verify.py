"""Checks a model, its data and its settings in a minute: prints a table; exit code 1 if a check fails.

python -m lc_jax.main --config=configs/verify.py --config.of=configs/ppo.py:mini     or another ppo, sft, reward_model
python -m lc_jax.main --config=configs/verify.py --config.of=configs/sft.py --config.set=model=M,data.rows.source=F
python -m lc_jax.main --config=configs/verify.py --config.model=CHECKPOINT
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    config = base.base_config("verify", mode)
    config.of = ""  # a training config, FILE[:MODE]
    config.set = ("",)  # settings of that config, NAME=VALUE with commas between them
    config.model = ""  # a checkpoint, instead of the config's own model
    config.temperature = 0.7  # of sampling, where `of` has none
    return config
