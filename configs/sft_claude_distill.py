"""Claude Distill: Llama 2 7B fine-tuned on paragraphs that the API model wrote.

  python -m lc_jax.main --config=configs/sft_claude_distill.py           8x A100 80 GB

Expected with the published data: TriviaQA accuracy .609, ECE .391.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    base.check_mode(mode, ("",), "the miniature's simulated annotator writes no paragraphs")
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
    return config
