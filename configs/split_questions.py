"""Splits questions with short answers into training, validation and test sets: the first stage of launch/calibrate.sh.

  python -m lc_jax.main --config=configs/split_questions.py --config.questions.source=mine.jsonl
  python -m lc_jax.main --config=configs/split_questions.py:mini

Each row needs a question and an answer; `aliases`, `kind`, `question_id` and `paragraph_generation_prompt` are also
read. Rows that are not a question with an answer, and repeated questions, are reported and left out. ":mini" splits
400 cities of geonames.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    config = base.base_config("split_questions", mode)
    config.questions = dict(source="", split="", answers="", answers_split="", columns="")
    config.output = "runs/calibrate/data"  # folder of the sets
    config.limit = 0  # questions, drawn at random; 0 = all
    config.only_test = False  # all questions are for testing
    config.training = ""  # folder of sets that models are trained with, whose questions are left out of such a test set
    config.num_shots = 4  # examples in the prompt of a base model
    config.num_sft = 3000  # at most: for summary distillation and LC SFT
    config.num_ppo = 12000  # at most: for LC RL
    config.num_validation = 500  # at most: for recalibration and choices
    config.num_test = 2000  # at most: reported
    config.num_samples = 8  # of a question in a rollout of LC RL
    config.sft_batch_size = 32  # at most: examples of a step of LC SFT
    config.rollout_batch_size = 256  # at most: episodes of a step of LC RL
    config.minibatch_size = 256  # at most: episodes of an update, of which a step has as many as its rollout allows
    config.max_steps = 150  # of LC RL, at most
    if mode == "mini":
        config.questions.source, config.limit = "geonames:cities", 400
        config.output = f"{base.root()}/split_questions"
    return config
