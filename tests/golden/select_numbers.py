"""Makes the files of this folder from a folder of full recordings: `python -m tests.golden.select_numbers RECORDINGS`.

Keeps the cases that the tests read, floats with as many digits as their dtype holds, and of large tensors 48 numbers
each. The models of the PPO steps are functions of a seed (see tests/recorded.py) and are not stored.
"""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import load_file

from tests.recorded import sample

HERE = Path(__file__).resolve().parent
KEYS = {
    "ppo_math": "whiten shape_reward estimate_advantage compute_loss kl_controller post_reward lr_schedules",
    "lc_reward": "postprocess_answer_extractions apply_reward_operations",
    "ece": "compute_ece ece_bootstrap accuracy_bootstrap get_metrics_for_confidence_baseline "
    "get_metrics_for_non_confidence_baseline get_metrics_for_factscore_confidence_results "
    "get_metrics_for_factscore_nonconfidence_results",
    "eval_pipeline": "preprocess_prob_forecast_df_for_semantic_equivalence_check semantic_equivalence_batched "
    "postprocess_fewshot_icl_evaluation factscore_prompts bio",
}
TENSORS = (
    "a1_rollouts a1_grads_before_clip a1_params_after "
    "b_decision_based_rl_rollouts_step1 b_decision_based_rl_rollouts_step3 b_decision_based_rl_params_after_step3"
)


def shorten(value: Any) -> Any:
    """The same JSON with float32 arrays written in the fewest digits that give the same float32."""
    if isinstance(value, list):
        return [shorten(v) for v in value]
    if not isinstance(value, dict):
        return value
    if value.get("__array__") and value["dtype"] == "float32":
        flat = np.asarray(value["data"], np.float32).ravel()
        return value | {"data": [float(np.format_float_positional(x)) for x in flat]}
    return {k: shorten(v) for k, v in value.items()}


def select(source: Path, name: str, keys: str) -> None:
    """Writes one JSON file with some of its keys."""
    recorded = json.loads((source / f"{name}.json").read_text())
    text = json.dumps(shorten({key: recorded[key] for key in keys.split()}), separators=(",", ":"), ensure_ascii=False)
    (HERE / f"{Path(name).name}.json").write_text(text + "\n")


if __name__ == "__main__":
    source = Path(sys.argv[1])
    for name, keys in KEYS.items():
        select(source, name, keys)
    select(source, "ppo_step/ppo_step", "fixed_scores text_rollout")
    arrays = {}
    for name in TENSORS.split():
        tensors = load_file(source / "ppo_step" / f"{name}.safetensors")
        arrays |= {f"{name}/{k}": v if "rollouts" in name else sample(v) for k, v in tensors.items()}
    np.savez_compressed(HERE / "ppo_step.npz", **arrays)
    for folder, pattern in (("tokenizer_tiny", "*"), ("data", "*.csv"), ("calibration", "*")):
        (HERE / folder).mkdir(exist_ok=True)
        for path in (source / folder).glob(pattern):
            shutil.copyfile(path, HERE / folder / path.name)
