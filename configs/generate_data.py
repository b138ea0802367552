"""Make training data from questions: paragraphs, summaries, forecasts, correctness (paper sections 4.1 and 4.2).

python -m lc_jax.main --config=configs/generate_data.py:mini --config.what=paragraphs --config.output=sft.jsonl
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    config = base.base_config("generate_data", mode)
    config.what = "paragraphs"  # paragraphs, summaries, forecasts or correctness
    config.questions = base.questions("reward_model")
    config.input = ""  # rows to add columns to; "": bare questions
    config.output = ""
    config.limit = 0  # questions; 0 = all
    config.annotator = ""
    config.model = ""
    config.column = "icl_generated_paragraphs"
    config.num_samples, config.temperature = 8, 0.7
    config.max_new_tokens, config.batch_size = 300, 64
    if mode == "mini":
        config.questions = base.questions("sft", mini=True)
        config.annotator, config.model = base.ANNOTATOR, base.LLAMA
        config.temperature = 1.0  # paragraphs are short: at 0.7 the true answer is too often not among the eight
        config.max_new_tokens, config.batch_size = 64, 256
    return config
