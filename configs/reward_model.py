"""A reward model from one's own rows: the probability (`label`) that an answer is right or good.

  python -m lc_jax.main --config=configs/reward_model.py --config.model=FOLDER --config.data.rows.source=mine.jsonl \\
      --config.output=runs/mine_reward
  python -m lc_jax.main --config=configs/reward_model.py:mini --config.data.rows.source=mine.jsonl      on 2 CPU cores

Rows: JSON lines, JSON, CSV or Parquet, with `prompt`, `answer` and `label`, which the model reads as they stand; or
with `generated_paragraph`, `question`, `answer` and `label`, which make a forecaster for PPO
(--config.reader.forecaster). `label` is a number from 0 to 1, or true or false. Columns of other names:
--config.data.rows.columns=prompt=context,label=score
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    config = base.training(base.base_config("reward_model", mode), learning_rate=5e-6, warmup_ratio=0.1)
    config.model, config.output = "", "runs/reward_model"
    config.data = dict(recipe="labelled_answers", rows=base.own_rows(), eval_size=0, max_length=1024)
    config.fit = dict(num_epochs=3, batch_size=8, microbatch_size=8, eval_every=100, save_every=100)
    if mode == "mini":
        config.model, config.output = base.LLAMA, f"{base.root()}/reward_model"
        config.data.max_length = 160
        config.optimizer.learning_rate = 3e-4
    return config
