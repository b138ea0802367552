"""Evaluates biographies claim by claim, against Wikipedia or your own pages: accuracy, calibration (paper section 6).

  python -m lc_jax.main --config=configs/build_knowledge.py --config.source=wikipedia.jsonl.gz
  python -m lc_jax.main --config=configs/evaluate_biography.py --config.paragraphs=mine.jsonl --config.method=mine \\
      --config.annotator.name=anthropic/claude-haiku-4-5 --config.retriever=bm25 --config.dry_run=true

The second command only prints the cost; without --config.dry_run=true it evaluates, and the same command resumes an
interrupted run. The rows of `mine.jsonl` have `entity` and `generated_paragraph`. Instead of such a file, a checkpoint
(--config.model) or a provider's model (--config.writer.name) can write about the entities of --config.entities. With
":mini", the paragraphs are about the cities of the miniature world:

  python -m lc_jax.main --config=configs/build_knowledge.py:mini
  python -m lc_jax.main --config=configs/evaluate_biography.py:mini --config.model=runs/miniature/lc_rl/model \\
      --config.method="LC RL" --config.output=runs/miniature/biographies/lc_rl
"""

from ml_collections import ConfigDict

from configs import base
from lc_jax.evaluation import retrieval
from lc_jax.prompts import biography


def get_config(mode: str = "") -> ConfigDict:
    config = base.asking(base.base_config("evaluate_biography", mode))
    base.add_evaluation(config, roles=("claims", "confidence", "judge"))
    config.method, config.data = "", "biographies"  # their names in tables
    config.output = "runs/evaluation/biographies"  # folder of the result and its records
    # A file of names, one a line; rows with entity, title, name or topic; FActScore's folder; "": those of paragraphs
    config.entities = base.environment("LC_ENTITIES", "")  # who is written about: a file, or FActScore's folder
    config.entities_split = ""  # of a folder of such files; of FActScore's "unlabeled" (500 people) unless given
    config.query = biography.PROMPT.template  # what a writer is asked for
    # What configs/build_knowledge.py left, or FActScore's enwiki-20230401.db as it is.
    config.knowledge = base.environment("LC_KNOWLEDGE", "runs/knowledge.sqlite")  # pages to check claims against
    config.retriever = "sentence-transformers/gtr-t5-large"  # or another such model or folder of one, or "bm25"
    config.num_passages = retrieval.NUM_PASSAGES  # for a claim
    if mode == "mini":
        config.data, config.entities, config.entities_split = "miniature biographies", "miniature", "test"
        config.query = "Write about the population of {entity}."
        config.knowledge, config.retriever = f"{base.root()}/knowledge.sqlite", "bm25"
        config.annotator.name = base.ANNOTATOR
        config.max_new_tokens, config.batch_size = 32, 256
    return config
