"""Sources of the paragraphs under evaluation: a file, a checkpoint, or a provider's model (paper section 6)."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lc_jax.data import jsonl
from lc_jax.data.columns import column, names_of
from lc_jax.data.rows import Row, optional
from lc_jax.llm.annotate import Annotation, AnnotationTask, AnnotationTasks, read_reply
from lc_jax.llm.cost import Costs
from lc_jax.llm.session import Session
from lc_jax.prompts import Prompt, strategies
from lc_jax.prompts.models import AUTO
from lc_jax.provenance import fingerprint
from lc_jax.types import Reply

EXPECTED = "word " * 150  # a paragraph, for the estimate of what reading it costs
MAX_TOKENS = 512  # of a paragraph that a provider's model writes


def paragraphs_of(rows: Sequence[Row], path: str, name: str) -> list[Annotation | None]:
    """The paragraph of each row in the column `name`; None where it holds no text (None, NaN, a number).

    Raises:
      ValueError: no row has text there; the message lists the columns.
    """
    cells = [column(row, name) for row in rows]
    paragraphs = [Annotation("ok", cell) if isinstance(cell, str) else None for cell in cells]
    if not any(paragraphs):
        names = names_of(rows)
        raise ValueError(f"{path}: no row has text in {name!r}; name its column with --config.column, of {names}.")
    return paragraphs


@dataclasses.dataclass(frozen=True)
class Writer:
    """Exactly one of `paragraphs`, `model` and `writer`, and how it is asked. The fields are those of the configs.

    Raises:
      ValueError: none of the three is named, or several; a provider's model with a top_p; samples' own probability.
    """

    paragraphs: str  # a file
    column: str  # of that file
    model: str  # a checkpoint
    max_new_tokens: int
    batch_size: int
    precision: Mapping[str, Any]
    writer: Mapping[str, Any]  # a provider's model, as in `session.open_configured`
    strategy: str
    templates: str
    prompt_dir: str
    temperature: float
    top_p: float  # of a checkpoint: its tokens are drawn from this nucleus; 1 = any token
    seed: int
    output: str  # folder of paragraphs.jsonl, where a checkpoint's are kept
    dry_run: bool
    published: bool  # whether top_p is the published one, which providers' models were not asked with either

    def __post_init__(self) -> None:
        writers = [name for name in ("paragraphs", "model") if optional(getattr(self, name)) is not None]
        writers += ["writer.name"] * (optional(self.writer["name"]) is not None)
        if len(writers) != 1:
            raise ValueError(
                "Who writes the paragraphs? Give one of --config.paragraphs=FILE, --config.model=FOLDER and "
                f"--config.writer.name=provider/model; given: {writers}."
            )

        if self.writer["name"] and self.top_p != 1 and not self.published:
            raise ValueError(
                f"--config.top_p={self.top_p} is of checkpoints: {self.writer['name']} is asked without; leave it at 1."
            )

        if self.strategy == strategies.OWN_PROBABILITY and self.temperature != 0:
            raise ValueError(
                f"--config.temperature={self.temperature}: the strategy {self.strategy} states the probability of the "
                "greedy answer; give --config.temperature=0."
            )

    @classmethod
    def from_settings(cls, settings: Mapping[str, Any]) -> Writer:
        """The writer that a config names."""
        fields = {field.name: settings[field.name] for field in dataclasses.fields(cls)}
        return cls(**fields | {name: optional(fields[name]) or "" for name in ("paragraphs", "model")})

    @property
    def name(self) -> str:
        """The file, folder or model, for results."""
        return str(self.paragraphs or self.model or self.writer["name"])

    def sampling(self) -> dict[str, float]:
        """The settings of a checkpoint's sampling, for results; {} of other writers."""
        return {"top_p": self.top_p, "max_new_tokens": self.max_new_tokens} if self.model else {}

    def write(self, prompts: Mapping[str, str], session: Session, mesh: Any) -> tuple[dict[str, Annotation], Costs]:
        """Returns a paragraph for every id of a model or provider (see `paragraphs_of` for files), and what they cost.

        Args:
          prompts: what is asked for, by id.
          session: whose store and budget a provider's model shares.
          mesh: of a checkpoint; None where none writes.
        """
        templates = AUTO if self.strategy == strategies.ASKED_PERCENTAGE else self.templates
        if self.model and not self.dry_run:
            from lc_jax.data.tokenizer import resolve_templates

            templates = resolve_templates(self.model, templates)
        prompt = strategies.load(self.strategy, templates, self.prompt_dir, checkpoint=bool(self.model))
        if self.model and self.dry_run:
            return {name: Annotation("ok", EXPECTED) for name in prompts}, []
        if self.model:
            return self._write_from_checkpoint(prompts, prompt, mesh), []
        task = AnnotationTask(prompt, self.temperature, MAX_TOKENS, lambda fields: EXPECTED)
        provider = session.with_annotator(self.writer, "writer", self.dry_run)
        tasks = AnnotationTasks({"paragraph": task}, provider, dry_run=self.dry_run)

        async def write_one(text: str) -> Annotation:
            return await tasks.ask("paragraph", {"paragraph_generation_prompt": text})

        paragraphs = provider.map_all(write_one, list(prompts.values()), "paragraph")
        return dict(zip(prompts, paragraphs, strict=True)), tasks.costs()

    def _write_from_checkpoint(self, prompts: Mapping[str, str], prompt: Prompt, mesh: Any) -> dict[str, Annotation]:
        """Paragraphs by id, kept in `<output>/paragraphs.jsonl` as they are written.

        Raises:
          ValueError: that file was begun by another model or in another way.
        """
        from lc_jax.inference import writing
        from lc_jax.models import released

        released.warn_of_wording(self.model, prompt)
        path = Path(self.output) / "paragraphs.jsonl"
        how = (self.model, self.strategy, self.temperature, self.top_p, self.max_new_tokens, self.seed)
        spec = fingerprint([prompt.template, *how])
        rows = jsonl.truncate_partial_line(path)
        if any(row.get("spec") != spec for row in rows):
            raise ValueError(
                f"{path} was written by another model or in another way: remove it or name another output."
            )
        paragraphs = {row["question_id"]: _annotation(row) for row in rows}
        todo = [name for name in prompts if name not in paragraphs]
        # A model that continues a text writes further examples; one that answers a message stops by itself.
        one_line = self.strategy in strategies.SHORT and not prompt.is_message
        numbers = (self.max_new_tokens, self.temperature, self.seed, self.batch_size, self.top_p)
        decoding = writing.Decoding(*numbers, one_line=one_line)
        texts = [prompt.prompt_text(paragraph_generation_prompt=prompts[name]) for name in todo]
        for place, text, _, logprob in writing.write(self.model, mesh, texts, decoding, self.precision):
            annotation = read_reply(prompt, {}, Reply("ok", text))
            if self.strategy == strategies.OWN_PROBABILITY and annotation.value:
                percentage = max(0.1, 100 * math.exp(logprob))  # 0% would say that it is another answer
                text = f"{annotation.value.removesuffix('.')} ({percentage:.1f}%)"
                annotation = dataclasses.replace(annotation, value=text)
            row = {"question_id": todo[place], "paragraph": annotation.value, "spec": spec}
            if annotation.status != "ok":  # a reasoning model that did not come to its answer
                row |= {"status": annotation.status, "detail": annotation.detail}
            paragraphs[row["question_id"]] = _annotation(row)
            jsonl.append_jsonl(path, [row])
        return {name: paragraphs[name] for name in prompts}


def _annotation(row: Row) -> Annotation:
    """The paragraph of a row that a checkpoint's run left."""
    return Annotation(row.get("status", "ok"), row["paragraph"], detail=row.get("detail", ""))
