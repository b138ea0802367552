"""Generates training data from questions: queries, paragraphs, summaries, forecasts, correctness (paper sections 3, 4).

  python -m lc_jax.main --config=configs/generate_data.py:mini --config.what=paragraphs --config.output=paragraphs.jsonl
  python -m lc_jax.main --config=configs/generate_data.py --config.what=summaries --config.input=paragraphs.jsonl \\
      --config.output=sft.jsonl --config.annotator.name=anthropic/claude-haiku-4-5 --config.dry_run=true

The second command only prints the cost. Each row is stored at once: the same command resumes an interrupted run, and no
reply is paid for twice. Modes: mini; trivia_qa, jeopardy, sciq, bioasq: the published test questions instead of those
that the reward models are trained on.
"""

from ml_collections import ConfigDict

from configs import base


def get_config(mode: str = "") -> ConfigDict:
    base.check_mode(mode, ("", *base.TESTS, "mini"))
    config = base.asking(base.base_config("generate_data", mode if mode == "mini" else ""))
    config.what = "paragraphs"  # queries, paragraphs, summaries, claude_distill, forecasts or correctness
    config.questions = base.questions("reward_model")  # source "": the rows of `input` hold their questions themselves
    config.input = ""  # rows to add columns to; "": bare questions
    config.output = ""  # the file of rows
    config.limit = 0  # rows; 0 = all
    config.clues = False  # queries from Jeopardy! clues (with a `category`), which are made questions first
    config.model = ""  # a checkpoint that writes paragraphs
    config.in_context = False  # after eight examples, or those of few_shot.txt in prompt_dir: short answers
    config.first_paragraph = config.get_ref(
        "in_context"
    ).identity()  # a base model continues: cut at the first blank line
    config.column = "icl_generated_paragraphs"  # that paragraphs are written to
    config.num_samples = 8  # paragraphs of a question
    base.add_sampling(config, temperature=0.7)
    base.add_wording(config)
    if mode in base.TESTS:
        config.questions = base.test_questions(mode)
    if mode == "mini":
        config.questions = base.questions("sft", mini=True)
        config.annotator.name, config.model = base.ANNOTATOR, base.LLAMA
        config.first_paragraph = True  # its base models go on as well
        config.temperature = 1.0  # paragraphs are short: at 0.7 the true answer is too often not among the eight
        config.max_new_tokens, config.batch_size = 32, 256
    return config
