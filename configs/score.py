"""Scores text with any checkpoint: log-probabilities of a language model, or the logit of a reward model.

  python -m lc_jax.main --config=configs/score.py --config.model=runs/sft_lc/model \\
      --config.input=rows.jsonl --config.output=scored.jsonl --config.kind=logprobs

The rows have `prompt` and `completion`, or `text`. kind=logprobs adds `logprobs` and `entropies` of each token (nats);
kind=reward adds `reward`.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    config = base.base_config("score", mode)
    config.model = ""  # a checkpoint
    config.input, config.output = "", ""  # files of rows
    config.kind = "logprobs"  # or "reward": a reward model's logit
    config.temperature, config.batch_size = 1.0, 32  # that logits are divided by; rows at a time
    return config
