"""Trains a reward model on your own rows: the probability (`label`) that an answer is right or good.

  python -m lc_jax.main --config=configs/reward_model.py --config.model=FOLDER --config.data.rows.source=mine.jsonl \\
      --config.output=runs/mine_reward
  python -m lc_jax.main --config=configs/reward_model.py:mini --config.data.rows.source=mine.jsonl      on 2 CPU cores

The rows are JSON Lines, JSON, CSV, TSV or Parquet. They have `prompt`, `answer` and `label`, of which the model reads
the first two verbatim; or `generated_paragraph`, `question`, `answer` and `label`, which make a forecaster for PPO
(--config.reader.forecaster). `label` is a number from 0 to 1, or true or false. Columns with other names:
--config.data.rows.columns=prompt=context,label=score
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    return base.own_training("reward_model", mode, "labelled_answers", warmup_ratio=0.1, mini_length=160)
