"""Checks of a model, its data and its settings, printed as a table; exit code 1 if one fails."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import jax
import numpy as np
from ml_collections import ConfigDict

from lc_jax import prompts, settings
from lc_jax.data import examples
from lc_jax.data.questions import load_train_and_validation
from lc_jax.data.tokenizer import Tokenizer, load_templates_for, load_tokenizer
from lc_jax.evaluation import metrics
from lc_jax.inference import writing
from lc_jax.models import folders, hf
from lc_jax.models.config import training_fields
from lc_jax.preflight import check_all
from lc_jax.rl import advantage, reader, reward, verify, verify_models, verify_reader, verify_scalar, writer
from lc_jax.rl.loss import LossSettings
from lc_jax.rl.settings import PPOSettings
from lc_jax.training import checks
from lc_jax.types import Example, Question

RECORD = ""  # nothing is left on disk
KINDS = ("ppo", "sft", "reward_model")
COUNT, NEW_TOKENS, LONGEST = 8, 24, 512  # prompts; sampled tokens; tokens of a prompt
TOKENS = "begin, stop and pad tokens"
QUERIES = (
    "Write a paragraph about Kofu.",
    "Write about rivers and lakes in the north of the country.",
    "Paris",
    "Why?",
)


def load_of(config: ConfigDict) -> ConfigDict:
    """Returns the config to check, with its overrides; `config` itself if it names a model only."""
    if not config.of:
        return config
    return settings.parse([f"--config={config.of}", *(f"--config.{item}" for item in config.set if item)])[0]


def _model(config: ConfigDict, of: ConfigDict) -> tuple[str, str]:
    """Returns the setting and the path of the trained model."""
    if config.model:
        return "model", config.model
    name = "policy" if of.task == "ppo" else "model"
    return name, of[name]


def check(config: ConfigDict) -> None:
    """Checks that the config trains a model, and that its models exist."""
    if not config.of and not config.model:
        raise ValueError("give --config.of=configs/ppo.py:mini (any training config), or --config.model=CHECKPOINT.")
    of = load_of(config)
    if config.of and of.task not in KINDS:
        model = f", or --config.model={of.output}/model in place of --config.of" if of.task == "pretrain" else ""
        raise ValueError(f"--config.of={config.of} runs {of.task!r}: give a config of {', '.join(KINDS)}{model}.")
    name, path = _model(config, of)
    kinds = {name: (path, "causal")}
    if of.task == "ppo":
        kinds |= {"reader.forecaster": (of.reader.forecaster, "scalar")} if of.reader.kind == "models" else {}
        kinds |= {"reader.extractor": (of.reader.extractor, "causal")} if of.reader.extractor else {}
        kinds |= {"critic": (of.critic, "scalar")} if of.ppo.baseline.startswith("critic") else {}
    check_all(*[lambda n=n, p=p, k=k: checks.check_model(n, p, k) for n, (p, k) in kinds.items()])  # type: ignore[misc]


def _texts(config: ConfigDict, of: ConfigDict, tokenizer: Tokenizer) -> list[Example]:
    """Returns prompts with targets: of the config's data, or general ones if it names a model only."""
    if of is config:
        return [Example(str(i), query, " It is so.", label=0.25) for i, query in enumerate(QUERIES)]
    templates = load_templates_for(tokenizer.name, of.templates, of.prompt_dir)
    if of.task == "ppo":
        questions = _questions(of)
        texts = [templates.paragraph.prompt_text(paragraph_generation_prompt=q.prompt) for q in questions]
        return [Example(q.question_id, t, f" {q.answer}.") for q, t in zip(questions, texts, strict=False)]
    return examples.load_split(of.data.to_dict(), templates, tokenizer.fits(of.data.max_length), of.seed)[0].train


def _questions(of: ConfigDict) -> list[Question]:
    """Returns the first training questions of PPO."""
    return load_train_and_validation(of.questions, of.validation, of.ppo.num_validation, of.seed)[0][: 4 * COUNT]


def _varied(texts: list[Example], tokenizer: Tokenizer) -> list[Example]:
    """Returns COUNT of the texts, with different lengths if possible."""
    first = texts[: 16 * COUNT]
    lengths = [len(tokenizer.encode_prompt(e.prompt)) for e in first]
    order = [i for i in np.argsort(lengths, kind="stable") if lengths[i] <= LONGEST] or [int(np.argmin(lengths))]
    places = np.linspace(0, len(order) - 1, COUNT).astype(int)
    return [first[order[place]] for place in places]


def _metrics() -> Mapping[str, Callable[[np.ndarray, np.ndarray], float]]:
    return {
        "brier": metrics.brier,
        "ece": lambda confidences, correct: metrics.ece(confidences, correct, 2),
    }


def verify_causal(config: ConfigDict, of: ConfigDict, mesh: jax.sharding.Mesh) -> list[verify.Result]:
    """Checks a language model: a policy, a fine-tuned model, a checkpoint."""
    path = _model(config, of)[1]
    tokenizer = load_tokenizer(path) if of.task != "sft" else load_tokenizer(path).with_pad_token()
    texts = _varied(_texts(config, of, tokenizer), tokenizer)
    encoded = [tokenizer.encode_prompt(e.prompt) for e in texts]
    pairs = [(e, examples.encode_sft(tokenizer, e, verify_models.MAX_TOKENS)) for e in texts]
    if of.task == "ppo":
        templates = load_templates_for(path, of.templates, of.prompt_dir)
        sampling = writer.load(path, templates, PPOSettings(**of.ppo)).sampling
    else:
        sampling = writing.Decoding(NEW_TOKENS, config.temperature, 0, COUNT).sampling(tokenizer)
    sampling = dataclasses.replace(sampling, max_new_tokens=min(NEW_TOKENS, sampling.max_new_tokens))
    precision = training_fields(of.to_dict())
    optimizer = of.optimizer.kind if "optimizer" in of else "adamw"
    loss = LossSettings(**of.loss) if of.task == "ppo" else LossSettings()
    subject = verify_models.Subject(
        path, precision, tokenizer, encoded, sampling, mesh, optimizer, tokenizer.num_rows, loss
    )
    results = [verify.Result.of(TOKENS, lambda: verify.special_tokens(tokenizer, texts[0].prompt, sampling))]
    return results + verify_models.causal(subject, [(example, row) for example, row in pairs if row is not None])


def verify_reward_model(config: ConfigDict, of: ConfigDict, mesh: jax.sharding.Mesh) -> list[verify.Result]:
    """Checks a reward model on its own prompts and labels."""
    path = _model(config, of)[1]
    tokenizer = load_tokenizer(path).with_pad_token() if of.task == "reward_model" else load_tokenizer(path)
    texts = _varied(_texts(config, of, tokenizer), tokenizer)
    model = hf.load(path, mesh, kind="scalar", vocab_size=tokenizer.num_rows, **training_fields(of.to_dict()))
    return verify_scalar.trained(model, tokenizer, texts, mesh)


def run(config: ConfigDict, mesh: jax.sharding.Mesh) -> None:
    """Prints the table of checks.

    Raises:
      ValueError: a check failed; names which.
    """
    of = load_of(config)
    results = [verify.Result.of("metrics of stated confidence", lambda: verify.calibration_metrics(_metrics()))]
    rewards = reward.RewardSettings(**of.reward) if "reward" in of else reward.RewardSettings()
    advantages = advantage.AdvantageSettings(**of.advantage) if "advantage" in of else advantage.AdvantageSettings()
    results += verify.arithmetic(advantages, rewards)
    is_scalar = of.task == "reward_model" or (of is config and folders.config_of(config.model)[1] == "scalar")
    if is_scalar:
        results += verify_reward_model(config, of, mesh)
    else:
        results += verify_causal(config, of, mesh)
    if of.task == "ppo":
        results += _verify_others(of, mesh)
    print(verify.render(results))
    failed = [row.name for row in results if row.verdict == "FAILED"]
    if failed:
        raise ValueError(
            f"{len(failed)} of {len(results)} checks FAILED: {'; '.join(failed)}. The table has what each measured; "
            "docs/numerics.md says what each compares and which faults it finds."
        )


def _verify_others(of: ConfigDict, mesh: jax.sharding.Mesh) -> list[verify.Result]:
    """Checks the critic and the reader of PPO."""
    questions = _questions(of)
    texts = [f"{q.question} {q.answer}" for q in questions[:4]]
    templates = prompts.load_templates(of.templates, of.prompt_dir)
    loaded = reader.load(of.reader.to_dict(), templates, mesh, reader.frozen(of.precision))
    is_miniature = of.questions.source == "miniature"
    results = verify_reader.results(loaded, questions[: 2 * COUNT], is_miniature=is_miniature)
    if isinstance(loaded, reader.Reader):
        encoded = [loaded.forecaster.tokenizer.encode_prompt(text) for text in texts]
        results += verify_scalar.scalar(loaded.forecaster.model, encoded, "forecaster")
    if PPOSettings(**of.ppo).uses_critic:
        critic = hf.load(of.critic, mesh, kind="scalar", fresh_head=True, **training_fields(of.to_dict()))
        encoded = [load_tokenizer(of.critic).encode_prompt(text) for text in texts]
        results += verify_scalar.scalar(critic, encoded, "critic")
    return results
