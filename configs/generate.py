"""Generates completions of prompts with any checkpoint: `completion`, `tokens` and `logprobs` for each row.

  python -m lc_jax.main --config=configs/generate.py --config.model=runs/ppo/model \\
      --config.prompts=prompts.jsonl --config.output=completions.jsonl --config.temperature=0.3

The rows of `prompts.jsonl` have `prompt`, or `messages` for the chat template. The same command resumes an interrupted
run.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    config = base.base_config("generate", mode)
    config.model = ""  # a checkpoint
    config.prompts, config.output = "", ""  # files of rows
    config.temperature, config.top_p, config.top_k = 0.3, 1.0, 0  # of sampling; top_p 1, top_k 0: any token
    config.max_new_tokens, config.num_samples = 300, 1  # of a prompt
    config.batch_size = 64  # rows at a time
    if mode == "mini":
        config.model = f"{base.root()}/lc_rl/model"
        config.max_new_tokens = 64
    return config
