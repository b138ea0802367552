"""Put evaluations side by side: a report to open in a browser, a table, results.json and figures.

python -m lc_jax.main --config=configs/report.py:mini
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    config = base.base_config("report", mode)
    config.evaluations, config.output = "runs/evaluation", "runs/report"
    config.methods = ("LC RL", "LC SFT", "Factuality RL", "Factuality SFT")  # rows in this order, others after them
    config.baseline = ""  # the method that others are compared with; "": the first
    config.num_examples = 200  # to browse, a method and data set
    config.allow_different_judges = False
    if mode == "mini":
        config.evaluations, config.output = f"{base.root()}/evaluation", base.root()
    return config
