"""Convert a checkpoint: Hugging Face <-> native (Orbax), another dtype, another shard size.

  python -m lc_jax.main --config=configs/convert.py --config.source=runs/ppo/model --config.destination=lc-rl-bf16 \
      --config.dtype=bfloat16
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    config = base.base_config("convert", mode)
    config.source, config.destination = "", ""
    config.format = "hf"  # or "native"
    config.dtype = ""  # the stored one
    config.shard_gigabytes = 5.0
    return config
