"""Measures a judge's bias against hedges: counts verdicts that change when the same answers are worded with doubt.

  python -m lc_jax.main --config=configs/probe_judge.py --config.evaluation=runs/evaluation/lc_rl \\
      --config.annotator.name=anthropic/claude-haiku-4-5 --config.dry_run=true

--config.evaluation is an output folder of configs/evaluate_qa.py (result.json, records.jsonl). The command only prints
the cost; without --config.dry_run=true it asks the judge and writes probe.json.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    config = base.asking(base.base_config("probe_judge", mode))
    config.evaluation = ""  # folder of the evaluation whose answers are judged
    config.output = "runs/probe_judge"  # folder of probe.json
    config.judge_temperature = 0.0  # of verdicts
    config.limit = 200  # answers; 0 = all
    if mode == "mini":
        config.evaluation, config.output = f"{base.root()}/evaluation/lc_rl", f"{base.root()}/probe_judge"
        config.annotator.name = base.ANNOTATOR
    return config
