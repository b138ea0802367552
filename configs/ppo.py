"""LC RL: PPO on the decision-based reward, with ExtractAnswers and ForecastProbs as the reader (paper section 4.3).

  python -m lc_jax.main --config=configs/ppo.py           8x A100 80 GB
  python -m lc_jax.main --config=configs/ppo.py:mini      the miniature world, minutes on 2 CPU cores

The paper's result on TriviaQA: accuracy .647, ECE .108 (table 2).
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    config = base.ppo(mode)
    config.policy = "runs/sft_lc/model"  # trained, and the reference that KL is measured from
    config.critic = "runs/forecast_probs/model"  # its backbone, under a fresh value head
    config.reader.extractor = "runs/extract_answers/model"
    config.reader.forecaster = "runs/forecast_probs/model"
    config.reward = dict(
        name="decision_based",  # or another of docs/objectives.md, or MODULE:FUNCTION
        normalization=5.0,  # weight of |sum of the forecasts - 1|
        offset=5.0,  # added to every score
        epsilon=1e-4,  # the smallest probability
        target="outcome",  # of a stated confidence; or "group_accuracy", "empirical_rate" of its question
        target_weight=0.5,  # of a target that is not the outcome; the outcome has the rest
        threshold_low=0.5,  # "threshold_weighted": decision thresholds from here
        threshold_high=1.0,  # to here
        threshold_weight=4.0,  # count so many times as much as the others
    )
    config.output = "runs/ppo"
    if mode == "mini":
        base.miniature_ppo(config)
        config.policy = f"{base.root()}/lc_sft/model"
        config.critic = config.reader.forecaster = f"{base.root()}/forecast_probs/model"
        config.reader.extractor = f"{base.root()}/extract_answers/model"
        config.output = f"{base.root()}/ppo"
        config.reward.normalization = 2.0  # at 5 the small reader's own errors in the sum outweigh the log score
    return config
