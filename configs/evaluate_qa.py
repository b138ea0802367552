"""Accuracy and calibration on questions: a checkpoint writes, an annotator reads and judges (paper section 5).

  python -m lc_jax.main --config=configs/evaluate_qa.py:mini --config.model=runs/miniature/lc_rl/model \
      --config.method="LC RL" --config.output=runs/miniature/evaluation/lc_rl
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    config = base.base_config("evaluate_qa", mode)
    config.model, config.method, config.output = "", "", ""
    config.questions = base.questions("test")
    config.annotator = ""
    config.uses_confidence = True  # False for methods that state none: the first answer counts, with confidence 1
    config.temperature, config.max_new_tokens, config.batch_size = 0.3, 300, 64
    config.limit = 0  # questions; 0 = all
    if mode == "mini":
        config.questions, config.annotator = base.questions("test", mini=True), base.ANNOTATOR
        config.max_new_tokens, config.batch_size = 64, 256
    return config
