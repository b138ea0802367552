"""Supervised fine-tuning of a language model on one's own rows: `prompt` and `completion`, or `messages`.

  python -m lc_jax.main --config=configs/sft.py --config.model=FOLDER --config.data.rows.source=mine.jsonl \\
      --config.output=runs/mine
  python -m lc_jax.main --config=configs/sft.py:mini --config.data.rows.source=mine.jsonl      on 2 CPU cores

Rows: JSON lines, JSON, CSV or Parquet. `prompt` and `completion` are text as it stands; `messages` (or `conversations`)
go through the tokenizer's chat template, and the last message, the assistant's, is learned. Columns of other names:
--config.data.rows.columns=prompt=instruction,completion=output
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    config = base.training(base.base_config("sft", mode), learning_rate=5e-6, warmup_ratio=0.03)
    config.model, config.output = "", "runs/sft"
    config.data = dict(recipe="demonstrations", rows=base.own_rows(), eval_size=0, max_length=1024)
    config.fit = dict(num_epochs=3, batch_size=8, microbatch_size=8, eval_every=100, save_every=100)
    if mode == "mini":
        config.model, config.output = base.LLAMA, f"{base.root()}/sft"
        config.data.max_length = 128
        config.optimizer.learning_rate = 3e-4
    return config
