"""ForecastProbs: a reward model learns the probability of an answer to a question, given only a paragraph.

  python -m lc_jax.main --config=configs/forecast_probs.py           8x A100 80 GB
  python -m lc_jax.main --config=configs/forecast_probs.py:mini      the miniature world, minutes on 2 CPU cores

Training starts from LC SFT; the labels are the annotator's probabilities. The result is the forecaster of the reader in
LC RL, and its backbone initialises the critic.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    config = base.training(base.base_config("reward_model", mode), learning_rate=5e-6, warmup_ratio=0.1)
    config.model = "runs/sft_lc/model"
    config.output = "runs/forecast_probs"
    config.data = dict(
        recipe="forecast_probs",
        rows=base.rows("reward_model"),
        eval_size=2000,
        max_length=1024,
    )
    config.fit = dict(num_epochs=5, batch_size=256, microbatch_size=64, eval_every=25, save_every=25)
    if mode == "mini":
        config.model = f"{base.root()}/lc_sft/model"
        config.output = f"{base.root()}/forecast_probs"
        config.data.rows = base.rows("reward_model", mini=True)
        config.data.eval_size, config.data.max_length = 50, 160
        config.fit = dict(num_epochs=8, batch_size=32, microbatch_size=32, eval_every=100, save_every=100)
        config.optimizer.learning_rate = 3e-4
    return config
