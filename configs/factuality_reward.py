"""Factuality reward model: predicts whether the answer in a paragraph is correct; the reward of Factuality RL.

  python -m lc_jax.main --config=configs/factuality_reward.py           8x A100 80 GB
  python -m lc_jax.main --config=configs/factuality_reward.py:mini      the miniature world, minutes on 2 CPU cores

Training starts from Factuality SFT; the labels are the annotator's verdicts, 0 or 1.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    config = base.training(base.base_config("reward_model", mode), learning_rate=5e-6, warmup_ratio=0.1)
    config.model = "runs/sft_factuality/model"
    config.output = "runs/factuality_reward"
    config.data = dict(
        recipe="factuality",
        rows=base.rows("reward_model"),
        eval_size=2000,
        max_length=1024,
    )
    config.fit = dict(num_epochs=5, batch_size=256, microbatch_size=64, eval_every=25, save_every=25)
    if mode == "mini":
        config.model = f"{base.root()}/factuality_sft/model"
        config.output = f"{base.root()}/factuality_reward"
        config.data.rows = base.rows("reward_model", mini=True)
        config.data.eval_size, config.data.max_length = 50, 160
        config.fit = dict(num_epochs=5, batch_size=32, microbatch_size=32, eval_every=100, save_every=100)
        config.optimizer.learning_rate = 3e-4
    return config
