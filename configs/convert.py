"""Converts a checkpoint: other dtypes and shards, GGUF files, reward models for transformers, weight differences.

Another dtype:
  python -m lc_jax.main --config=configs/convert.py --config.source=runs/ppo/model --config.destination=lc-rl-bf16 \\
      --config.dtype=bfloat16
The model of a training run (sft, reward_model, ppo) at step 300, as the run itself exports its last one:
  python -m lc_jax.main --config=configs/convert.py --config.source=runs/ppo/checkpoints/300 --config.destination=at-300
A GGUF file (Llama, Qwen 2, Qwen 3, Gemma 3) to a folder, in float32 if it is quantised (pip install 'lc_jax[gguf]'):
  python -m lc_jax.main --config=configs/convert.py --config.source=model-Q4_K_M.gguf --config.destination=model
Released weights: base + difference, checked; 7B needs 2 GB of memory and 27 GB of disk:
  python -m lc_jax.main --config=configs/convert.py --config.base=meta-llama/Llama-2-7b-hf \\
      --config.source=tatsu-lab/linguistic-calibration-lc-rl --config.destination=lc-rl
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    config = base.base_config("convert", mode)
    config.source, config.destination = "", ""  # folders; the source also a hub name, a .gguf, a run's checkpoints/STEP
    config.base = ""  # what the weight difference `source` is added to
    config.make_difference = False  # write source - base instead of base + source
    config.format = "hf"  # or "sequence_classification": a reward model for transformers
    config.dtype = ""  # the stored one; of a step: that of its run's own export
    config.shard_gigabytes = 5.0  # of a file of weights
    return config
