"""LC SFT: Llama 2 7B is fine-tuned on paragraphs that state their confidence (paper section 4.1).

  python -m lc_jax.main --config=configs/sft_lc.py           8x A100 80 GB
  python -m lc_jax.main --config=configs/sft_lc.py:mini      the miniature world, under a minute on 2 CPU cores

The paper's result on TriviaQA: accuracy .610, ECE .166 (table 2).
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    config = base.training(base.base_config("sft", mode), learning_rate=5e-6, warmup_ratio=0.03)
    config.model = "meta-llama/Llama-2-7b-hf"
    config.output = "runs/sft_lc"
    config.data = dict(
        recipe="sft_lc",
        rows=base.rows("sft"),
        eval_size=500,
        max_length=1024,
    )
    config.fit = dict(num_epochs=3, batch_size=32, microbatch_size=32, eval_every=25, save_every=25)
    if mode == "mini":
        config.model = base.LLAMA
        config.output = f"{base.root()}/lc_sft"
        config.data.rows = base.rows("sft", mini=True)
        config.data.eval_size, config.data.max_length = 30, 128
        config.fit = dict(num_epochs=8, batch_size=32, microbatch_size=32, eval_every=100, save_every=100)
        config.optimizer.learning_rate = 3e-4
    return config
