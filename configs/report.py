"""Compares evaluations: a report for the browser, a table, results.json and figures.

  python -m lc_jax.main --config=configs/report.py:mini
  python -m lc_jax.main --config=configs/report.py:paper     # the paper's own tables and figures, from its numbers

In figures, the paper's results on the same data set are hollow markers next to your own; --config.paper=true adds its
results on the other data sets.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    base.check_mode(mode, ("", "paper", "mini"))
    config = base.base_config("report", "mini" if mode == "mini" else "")
    config.evaluations = "runs/evaluation"  # folder with a folder for each evaluation
    config.output = "runs/report"  # folder of report.html, results.json and figures
    config.methods = ("LC RL", "LC SFT", "Factuality RL", "Factuality SFT")  # rows in this order, others after them
    config.baseline = ""  # the method that others are compared with; "": the first
    config.intrinsic = ""  # the method whose confidence is a model's own, such as the agreement of samples
    config.num_examples = 200  # to browse, a method and data set
    config.allow_different_judges = False  # True: compares evaluations of different annotators or settings
    config.paper = False  # also the paper's results on data sets of which there is no evaluation
    if mode == "paper":
        config.evaluations, config.output, config.paper = "", "runs/report_of_the_paper", True
    if mode == "mini":
        config.evaluations, config.output = f"{base.root()}/evaluation", base.root()
    return config
