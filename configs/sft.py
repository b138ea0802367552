"""Fine-tunes a language model on your own rows: `prompt` and `completion`, or `messages`.

  python -m lc_jax.main --config=configs/sft.py --config.model=FOLDER --config.data.rows.source=mine.jsonl \\
      --config.output=runs/mine
  python -m lc_jax.main --config=configs/sft.py:mini --config.data.rows.source=mine.jsonl      on 2 CPU cores

The rows are JSON Lines, JSON, CSV, TSV or Parquet. `prompt` and `completion` are verbatim text; `messages` (or
`conversations`) go through the tokenizer's chat template, and the loss is on the last message, the assistant's. Columns
with other names: --config.data.rows.columns=prompt=instruction,completion=output

To train calibration without reinforcement learning (docs/objectives.md), the rows have `prompt`, `completion` with one
placeholder "{confidence}" for a number from 0 to 100, and `label`, which is 1 if the answer is correct and otherwise 0:
--config.objective.name=expected_brier --config.data.recipe=stated_confidence
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    config = base.own_training("sft", mode, "demonstrations", warmup_ratio=0.03, mini_length=128)
    config.objective = dict(
        name="next_token",  # or "expected_brier", "expected_log" of a stated number, with data.recipe=stated_confidence
        step=10,  # per cent between the numbers that can be stated
    )
    return config
