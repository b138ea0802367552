"""The reader in RL: trained models that read a paragraph and forecast answers, as an API reader would (section 3).

ExtractAnswers lists the answers that a paragraph offers to a question; ForecastProbs gives each, and the true one, a
probability; it reads a paragraph once, and every answer behind it. Text passes between the models, so that each may
have a tokenizer of its own. Here, once, ragged answers become [B, K] with a mask.

`RulesReader` reads statements of short answers without any model.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Bool, Float, Int

from lc_jax.data import examples
from lc_jax.data.tokenizer import Tokenizer, load_tokenizer
from lc_jax.inference import generate, score
from lc_jax.inference.finite import check_finite
from lc_jax.models import hf, released
from lc_jax.models.transformer import Model
from lc_jax.preflight import NATURAL, NON_NEGATIVE, POSITIVE_INT, Range, check_settings
from lc_jax.prompts import Prompt, Templates, postprocess_answers
from lc_jax.short_answers.matching import normalise_answer
from lc_jax.short_answers.probabilities import Unreadable
from lc_jax.short_answers.statements import read as read_statement
from lc_jax.types import Question


def check(settings: Mapping[str, Any]) -> None:
    """Refuses settings of `config.reader` that cannot be; those of answers count with an extractor only.

    Raises:
      ValueError: one line for each setting, with its flag.
    """
    check_settings("reader", settings, kind=("models", "rules"))
    if settings["kind"] == "rules":
        paths = [f"--config.reader.{part}={settings[part]}" for part in ("extractor", "forecaster") if settings[part]]
        if paths:
            raise ValueError(f"{' and '.join(paths)}: reader.kind=rules reads without models; leave them empty.")
        check_settings("reader", settings, num_other_answers=POSITIVE_INT)
        return
    allowed = {"max_length": POSITIVE_INT, "batch_size": POSITIVE_INT}
    if settings["extractor"]:
        allowed |= {"max_new_tokens": POSITIVE_INT, "max_answers": POSITIVE_INT, "top_k": NATURAL}
        allowed |= {"temperature": NON_NEGATIVE, "validation_top_p": Range(above=0, high=1)}
    check_settings("reader", settings, **allowed)


def frozen(precision: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the precision of a model that is not trained: no master copy beyond the compute dtype."""
    return dict(precision, param_dtype=precision["compute_dtype"])


def load(
    settings: Mapping[str, Any], templates: Templates, mesh: jax.sharding.Mesh, loading: Mapping[str, Any]
) -> Reader | RulesReader:
    """Returns the reader of `config.reader`; without an extractor only the true answer is forecast.

    Args:
      loading: precision, and a backbone that adapters may share, as `hf.read` takes them.
    """
    if settings["kind"] == "rules":
        return RulesReader(settings["num_other_answers"])

    def part(path: str, kind: str, template: Prompt) -> ReaderModel:
        released.warn_of_wording(path, template)
        model = hf.load(path, mesh, kind=kind, **loading)
        return ReaderModel(model, load_tokenizer(path), template, settings["max_length"], settings["batch_size"])

    extractor = None
    if settings["extractor"]:
        lister = part(settings["extractor"], "causal", templates.extract_answers)
        sampling = generate.Sampling(
            settings["max_new_tokens"], settings["temperature"], top_k=settings["top_k"],
            eos_ids=lister.tokenizer.stop_ids, pad_id=lister.tokenizer.pad_id,
        )  # fmt: skip
        extractor = Extractor(lister, sampling, settings["max_answers"])
    return Reader(extractor, part(settings["forecaster"], "scalar", getattr(templates, settings["template"])))


@dataclasses.dataclass(frozen=True)
class ReaderModel:
    """One model of the reader with what turns text into its tokens."""

    model: Model
    tokenizer: Tokenizer
    template: Prompt
    max_length: int  # tokens of a prompt; a longer one has its paragraph cut, never its question or answer
    batch_size: int  # paragraphs, over all devices

    def encode(self, question: Question, paragraph: str, answer: str = "") -> list[int]:
        """Token ids of the template filled in."""
        fields = {"question": question.question, "generated_paragraph": paragraph}
        if "answer" in self.template.fields:
            fields["answer"] = answer
        tokens = self.tokenizer.encode_prompt(examples.cut_paragraph(self.template, fields))
        if len(tokens) <= self.max_length:
            return tokens
        text = examples.cut_paragraph(self.template, fields, self.tokenizer.fits(self.max_length))
        return self.tokenizer.encode_prompt(text)


@dataclasses.dataclass(frozen=True)
class Extractor:
    """ExtractAnswers: a language model that lists answers."""

    part: ReaderModel
    sampling: generate.Sampling
    max_answers: int  # K; further ones are dropped and counted

    def extract(self, questions: Sequence[Question], paragraphs: Sequence[str], seed: int) -> list[list[str]]:
        """The distinct answers that each paragraph offers to its question, in the order stated."""
        prompts = [self.part.encode(q, z) for q, z in zip(questions, paragraphs, strict=True)]
        completions = generate.generate(
            self.part.model, prompts, self.sampling, seed=seed, batch_size=self.part.batch_size
        )
        for question, completion in zip(questions, completions, strict=True):
            check_finite(completion.logprobs, self.part.tokenizer.name, f"question {question.question_id!r}")
        return [postprocess_answers(self.part.tokenizer.decode(c.tokens)) for c in completions]


@dataclasses.dataclass(frozen=True)
class AnswerForecasts:
    """Forecasts of a reader of B paragraphs; at most K answers each, padded and masked."""

    target_logits: Float[np.ndarray, " B"]  # of the ground truth y; p = sigmoid(logit)
    answer_logits: Float[np.ndarray, "B K"]  # of the distinct extracted answers A
    answer_mask: Bool[np.ndarray, "B K"]  # False where there is no answer; logits there are ignored

    @property
    def top(self) -> Int[np.ndarray, " B"]:
        """Column of the answer with the highest forecast, the first of equals; 0 where there is no answer."""
        return np.where(self.answer_mask, self.answer_logits, -np.inf).argmax(axis=1)


@dataclasses.dataclass(frozen=True)
class Reading:
    """Answers and forecasts of the reader for B paragraphs."""

    answers: list[list[str]]  # at most K each; empty lists without an extractor
    forecasts: AnswerForecasts  # arrays [B] and [B, K]
    num_dropped: int  # answers beyond K
    refusals: Sequence[str] = ()  # why a paragraph could not be read, "" of one that could; of rules only

    def top_answers(self) -> list[str]:
        """Returns the answer with the highest forecast in each paragraph, "" where there is none."""
        return [answers[k] if answers else "" for answers, k in zip(self.answers, self.forecasts.top, strict=True)]


@dataclasses.dataclass(frozen=True)
class Reader:
    """Extractor (None: only the true answer is judged, as the factuality reward does) and forecaster."""

    extractor: Extractor | None
    forecaster: ReaderModel

    @property
    def lists_answers(self) -> bool:
        """Returns whether answers are read from paragraphs."""
        return self.extractor is not None

    def with_sampling(self, top_k: int, top_p: float) -> Reader:
        """Returns the reader with an extractor that samples in another way."""
        if self.extractor is None:
            return self
        sampling = dataclasses.replace(self.extractor.sampling, top_k=top_k, top_p=top_p)
        return dataclasses.replace(self, extractor=dataclasses.replace(self.extractor, sampling=sampling))

    def with_models(self, change: Callable[[Model], Model]) -> Reader:
        """Returns the reader with changed models."""

        def changed(part: ReaderModel) -> ReaderModel:
            return dataclasses.replace(part, model=change(part.model))

        extractor = self.extractor and dataclasses.replace(self.extractor, part=changed(self.extractor.part))
        return Reader(extractor, changed(self.forecaster))

    def read(self, questions: Sequence[Question], paragraphs: Sequence[str], seed: int) -> Reading:
        """Returns the answers and their probability logits for every (question, paragraph)."""
        answers: list[list[str]] = [[] for _ in questions]
        num_answers, dropped = 1, 0
        if self.extractor is not None:
            num_answers = self.extractor.max_answers
            extracted = self.extractor.extract(questions, paragraphs, seed)
            answers = [a[:num_answers] for a in extracted]
            dropped = sum(map(len, extracted)) - sum(map(len, answers))
        pairs = [(b, k) for b, listed in enumerate(answers) for k in range(len(listed))]
        logits = self._forecast(
            [(q, z, q.answer) for q, z in zip(questions, paragraphs, strict=True)]
            + [(questions[b], paragraphs[b], answers[b][k]) for b, k in pairs]
        )
        answer_logits = np.zeros((len(questions), num_answers), np.float32)
        mask = np.zeros((len(questions), num_answers), bool)
        for (b, k), logit in zip(pairs, logits[len(questions) :], strict=True):
            answer_logits[b, k], mask[b, k] = logit, True
        return Reading(answers, AnswerForecasts(logits[: len(questions)], answer_logits, mask), dropped)

    def _forecast(self, triples: Sequence[tuple[Question, str, str]]) -> np.ndarray:
        """Returns logits of P(answer | question, paragraph), [N] float32; equal triples are read once."""
        groups: dict[tuple[str, str], dict[tuple[int, ...], int]] = {}
        places = []
        for question, paragraph, answer in triples:
            group = groups.setdefault((question.question, paragraph), {})
            tokens = tuple(self.forecaster.encode(question, paragraph, answer))
            places.append(((question.question, paragraph), group.setdefault(tokens, len(group))))
        group_logits = score.group_rewards(
            self.forecaster.model, [list(group) for group in groups.values()], batch_size=self.forecaster.batch_size
        )
        logits = dict(zip(groups, group_logits, strict=True))
        values = [float(logits[key][place]) for key, place in places]
        for (question, _, _), value in zip(triples, values, strict=True):
            check_finite([value], self.forecaster.tokenizer.name, f"question {question.question_id!r}")
        return np.asarray(values, np.float32)


MIN_REMAINDER = 1e-3  # probability that no statement can take from the answers that it does not list


@dataclasses.dataclass(frozen=True)
class RulesReader:
    """Reads statements of short answers by rule (lc_jax.short_answers), on the host and without a model.

    A statement lists answers a_1 ... a_k with probabilities p_i and leaves u = 1 - sum of p_i. The reader's forecast of
    the true answer y is p_i if y is a_i (or an alias of it), and u / N otherwise, N = `num_other_answers`: what is left
    is spread evenly over N further answers. That is one distribution Q over k + N answers, so the expected log score
    is, with true frequencies q_i of the listed answers and r of all others together,

        sum_i q_i log Q(a_i) + r log(u / N) = sum_i q_i log p_i + r log u - r log N.

    N adds a constant, and the first two terms are largest for p_i = q_i and u = r (Gibbs): the log score is proper, and
    no penalty on the sum is needed (reward.normalization=0). N decides what listing an answer is worth: it pays to
    list one whose frequency is above u / N.

    Probabilities are in [MIN_REMAINDER / N, 1 - MIN_REMAINDER], as if every statement left that much to the others.
    If the stated ones sum to more than 1, by rounding, they are divided by the sum. A paragraph that cannot be read,
    or states no probability, has no answers, and its truth has the lowest probability (`reward.penalize_unreadable`).
    """

    num_other_answers: int = 100

    lists_answers = True

    @property
    def lowest(self) -> float:
        """The lowest probability of an answer."""
        return MIN_REMAINDER / self.num_other_answers

    def with_sampling(self, top_k: int, top_p: float) -> RulesReader:
        """Returns the reader itself: nothing is sampled."""
        return self

    def with_models(self, change: Callable[[Model], Model]) -> RulesReader:
        """Returns the reader itself: there are no models."""
        return self

    def read(self, questions: Sequence[Question], paragraphs: Sequence[str], seed: int) -> Reading:
        """Returns the answers and their probability logits for every (question, paragraph); see `Reader.read`."""
        readings = [self._forecast(q, paragraph) for q, paragraph in zip(questions, paragraphs, strict=True)]
        num_answers = max([1, *(len(probs) for _, probs, _ in readings)])
        answer_probs = np.full((len(questions), num_answers), 0.5)
        mask = np.zeros((len(questions), num_answers), bool)
        for b, (_, probs, _) in enumerate(readings):
            answer_probs[b, : len(probs)], mask[b, : len(probs)] = list(probs.values()), True
        answer_logits = _logit(np.clip(answer_probs, self.lowest, 1 - MIN_REMAINDER))
        target_logits = _logit(np.asarray([truth for truth, _, _ in readings]))
        answers, refusals = [list(probs) for _, probs, _ in readings], [refusal for *_, refusal in readings]
        return Reading(answers, AnswerForecasts(target_logits, answer_logits, mask), 0, refusals)

    def _forecast(self, question: Question, paragraph: str) -> tuple[float, dict[str, float], str]:
        """Returns the probability of the true answer, those of the answers, and why there are none if it is so."""
        try:
            statement = read_statement(paragraph)
        except Unreadable as error:
            return self.lowest, {}, str(error)
        probs = {answer: prob for answer, prob in zip(*statement, strict=True) if prob is not None}
        if len(probs) < len(statement.answers):
            return self.lowest, {}, "no probability is stated"
        total = max(1.0, sum(probs.values()))
        probs = {answer: prob / total for answer, prob in probs.items()}
        names = set(map(normalise_answer, (question.answer, *question.aliases)))
        own = [prob for answer, prob in probs.items() if normalise_answer(answer) in names]
        truth = sum(own) if own else (1 - sum(probs.values())) / self.num_other_answers
        truth = min(max(truth, self.lowest), 1 - MIN_REMAINDER)
        return truth, {answer: prob for answer, prob in probs.items() if prob}, ""


def _logit(probs: np.ndarray) -> np.ndarray:
    """Returns log(p / (1 - p)), float32."""
    return np.log(probs / (1 - probs)).astype(np.float32)
