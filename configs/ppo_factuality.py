"""Factuality RL: PPO on a binary correctness reward, the baseline that learns to be right but states no confidence.

  python -m lc_jax.main --config=configs/ppo_factuality.py           8x A100 80 GB
  python -m lc_jax.main --config=configs/ppo_factuality.py:mini      the miniature world, minutes on 2 CPU cores

The paper's result on TriviaQA: accuracy .633, ECE .367 (table 2).
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    config = base.ppo(mode)
    config.policy = "runs/sft_factuality/model"  # trained, and the reference that KL is measured from
    config.critic = config.reader.forecaster = "runs/factuality_reward/model"  # backbone of the critic; and the reward
    config.reader.template = "factuality"
    config.reward = dict(name="factuality", offset=0.0)  # offset: added to every score
    config.output = "runs/ppo_factuality"
    if mode == "mini":
        base.miniature_ppo(config)
        config.policy = f"{base.root()}/factuality_sft/model"
        config.critic = config.reader.forecaster = f"{base.root()}/factuality_reward/model"
        config.output = f"{base.root()}/factuality_rl"
        config.ppo.num_steps = 40
    return config
