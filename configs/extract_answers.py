"""ExtractAnswers: RedPajama-INCITE 3B learns to list the answers to a question that a paragraph offers.

  python -m lc_jax.main --config=configs/extract_answers.py           8x A100 80 GB
  python -m lc_jax.main --config=configs/extract_answers.py:mini      the miniature world, under a minute on 2 CPU cores

It is the extractor of the reader in LC RL; configs/forecast_probs.py trains the forecaster.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    config = base.training(base.base_config("sft", mode), learning_rate=5e-6, warmup_ratio=0.03)
    config.model = "togethercomputer/RedPajama-INCITE-Base-3B-v1"
    config.output = "runs/extract_answers"
    config.data = dict(
        recipe="extract_answers",
        rows=base.rows("reward_model"),
        eval_size=500,
        max_length=1024,
    )
    config.fit = dict(num_epochs=5, batch_size=256, microbatch_size=64, eval_every=25, save_every=25)
    if mode == "mini":
        config.model = base.GPT_NEOX
        config.output = f"{base.root()}/extract_answers"
        config.data.rows = base.rows("reward_model", mini=True)
        config.data.eval_size, config.data.max_length = 30, 128
        config.fit = dict(num_epochs=3, batch_size=32, microbatch_size=32, eval_every=100, save_every=100)
        config.optimizer.learning_rate = 3e-4
    return config
