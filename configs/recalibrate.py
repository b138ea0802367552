"""Recalibrates an evaluation post hoc: fits a map from stated confidence to probability on a validation set.

  python -m lc_jax.main --config=configs/recalibrate.py --config.evaluation=runs/evaluation/lc_sft \\
      --config.validation=runs/evaluation_of_validation/lc_sft --config.output=runs/evaluation/lc_sft-isotonic

Both folders contain an evaluation (result.json, records.jsonl). The output is an evaluation with the mapped
confidences, for the same report: a row that a trained method has to beat. Without --config.validation, the map is
cross-fitted on the records themselves, and the name of the method says so.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    config = base.base_config("recalibrate", mode)
    config.evaluation = ""  # folder of the evaluation to recalibrate
    config.validation = ""  # folder of an evaluation on other questions, for the fit; "": cross-fitted
    config.output = ""  # folder of the new evaluation
    config.map = "isotonic"  # or platt, temperature, kind (the accuracy of each kind of question)
    config.num_folds = 5  # of cross-fitting, where there is no validation
    config.min_records = 30  # fewest judged records for a fit
    if mode == "mini":
        config.evaluation = f"{base.root()}/evaluation/lc_sft"
        config.output = f"{base.root()}/evaluation/lc_sft-isotonic"
    return config
