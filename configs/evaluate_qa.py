"""Evaluates accuracy and calibration on questions, from paragraphs of a model or a file (paper section 6).

  python -m lc_jax.main --config=configs/evaluate_qa.py:mini --config.model=runs/miniature/lc_rl/model \\
      --config.method="LC RL" --config.output=runs/miniature/evaluation/lc_rl
  python -m lc_jax.main --config=configs/evaluate_qa.py:own --config.paragraphs=mine.jsonl --config.method=mine \\
      --config.annotator.name=anthropic/claude-haiku-4-5 --config.output=runs/evaluation/mine --config.dry_run=true

The second command only prints the cost, and needs no JAX; without --config.dry_run=true it evaluates. The same command
resumes an interrupted run, and no reply is paid for twice.

Modes: trivia_qa (the default), jeopardy, sciq, bioasq, mini; own: questions of your own, in the rows of
--config.paragraphs or in --config.questions.source. --config.published=true reads and judges as in the paper
(docs/published.md); --config.annotators.judge.name=provider/model selects another annotator as the judge.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    base.check_mode(mode, ("", *base.TESTS, "own", "mini"))
    name = mode or "trivia_qa"
    config = base.asking(base.base_config("evaluate_qa", mode if mode == "mini" else ""))
    base.add_evaluation(config, roles=("extract", "forecast", "judge"))
    base.add_wording(config)
    config.judge_matches = config.get_ref("published").identity()  # False: what is an alias, word for word, is right
    config.method = ""  # its name in tables
    config.output = ""  # folder of the result and its records
    config.data = base.TESTS.get(name, ("",))[0]  # name of the questions in tables
    config.forecast_truth = False  # forecast the true answer as well, for the records
    if mode == "mini":
        config.data, config.questions = "miniature", base.questions("test", mini=True)
        config.annotator.name = base.ANNOTATOR
        config.max_new_tokens, config.batch_size = 32, 256
    elif mode == "own":
        config.questions = dict(source="", split="", answers="", answers_split="", columns="")
    else:
        config.questions = base.test_questions(name)
    return config
