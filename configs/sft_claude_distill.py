"""Claude Distill: Llama 2 7B is fine-tuned on paragraphs that the API model wrote.

  python -m lc_jax.main --config=configs/sft_claude_distill.py         8x A100 80 GB
  python -m lc_jax.main --config=configs/sft_claude_distill.py:mini    the miniature, under a minute on 2 CPU cores

The rows of the miniature come from
  python -m lc_jax.main --config=configs/generate_data.py:mini --config.what=claude_distill \\
      --config.output=runs/miniature/data/claude_distill.jsonl

The paper's result on TriviaQA: accuracy .609, ECE .391.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    config = base.training(base.base_config("sft", mode), learning_rate=3e-6, warmup_ratio=0.03)
    config.model = "meta-llama/Llama-2-7b-hf"
    config.output = "runs/sft_claude_distill"
    config.data = dict(
        recipe="sft_claude_distill",
        rows=base.rows("sft"),
        eval_size=500,
        max_length=1024,
    )
    config.fit = dict(num_epochs=3, batch_size=32, microbatch_size=32, eval_every=25, save_every=25)
    if mode == "mini":
        config.model = base.LLAMA
        config.output = f"{base.root()}/claude_distill"
        config.data.rows = base.rows("sft", mini=True) | {"source": f"{base.root()}/data/claude_distill.jsonl"}
        config.data.eval_size, config.data.max_length = 30, 128
        config.fit = dict(num_epochs=8, batch_size=32, microbatch_size=32, eval_every=100, save_every=100)
        config.optimizer.learning_rate = 3e-4
    return config
