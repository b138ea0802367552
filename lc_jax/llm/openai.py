"""Models behind the chat completions protocol, through OpenAI's SDK: OpenAI's own, or any server at a `base_url`.

"openai/gpt-..."; the key is the environment's (OPENAI_API_KEY), and servers of one's own may do without.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
from collections.abc import Mapping
from typing import Any

from lc_jax.llm import AnnotatorError, capabilities
from lc_jax.llm.api import API, Policy
from lc_jax.llm.capabilities import HIDDEN, Capabilities
from lc_jax.llm.failures import BROKEN, BUSY
from lc_jax.llm.replies import count, finished, is_reasoning, one_line, read_line, text_of, tolerant
from lc_jax.llm.store import Store
from lc_jax.prompts.parsing import strip_reasoning
from lc_jax.types import Reply, Request, Usage

PROBE = Request(
    'Reply with {"ok": true}', 0.0, 16, schema='{"type": "object", "properties": {"ok": {"type": "boolean"}}, '
    '"required": ["ok"], "additionalProperties": false}',
)  # fmt: skip

# Words in which servers refuse a schema, with a status that says the request or the server is at fault.
_NO_SCHEMA = re.compile(r"response_format|json_schema|json schema|guided|grammar|structured", re.IGNORECASE)
_REFUSALS = (400, 404, 415, 422, 500, 501)


def parameters(model: str, able: Capabilities, request: Request, old_server: bool = False) -> dict[str, Any]:
    """Returns the body of POST /chat/completions; holds nothing that the model does not take."""
    body: dict[str, Any] = {
        "model": model,
        # OpenAI's reasoning models refuse the old name, older servers do not know the new one.
        "max_tokens" if old_server else "max_completion_tokens": request.max_tokens + able.hidden_tokens,
        "messages": [{"role": "user", "content": request.prompt}],
    }
    if able.json_schema and request.schema:
        schema = {"name": "reply", "strict": True, "schema": json.loads(request.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": schema}
    if able.sampling:
        body["temperature"] = request.temperature
    if able.reasoning:
        body["reasoning_effort"] = able.reasoning
    return body


@tolerant
def read(completion: Mapping[str, Any]) -> Reply:
    """Returns the reply that a chat completion in JSON holds.

    Raises:
      Malformed: the JSON is no chat completion.
    """
    choice = completion["choices"][0]
    message, stop = choice["message"], choice.get("finish_reason")
    text, refusal = text_of(message.get("content")), message.get("refusal")
    counts = completion.get("usage") or {}
    cached = count((counts.get("prompt_tokens_details") or {}).get("cached_tokens"))
    usage = Usage(count(counts.get("prompt_tokens")), count(counts.get("completion_tokens")), cached)
    if refusal or stop == "content_filter":
        return Reply("refused", text, one_line(refusal or f"finish reason {stop}"), usage)
    detail = "the reply calls tools and holds no text" if message.get("tool_calls") else ""
    if not detail and reasons(completion):
        detail = "the reply holds reasoning and no answer"
    return finished(text, usage, f"finish reason {stop}" if stop == "length" else "", detail)


def reasons(completion: Any) -> bool:
    """Returns whether a chat completion holds reasoning, which a request's max_tokens does not provide for."""
    try:
        message = completion["choices"][0]["message"]
        content, counts = message.get("content"), completion.get("usage") or {}
        hidden = (counts.get("completion_tokens_details") or {}).get("reasoning_tokens")
        parts = isinstance(content, list) and any(map(is_reasoning, content))
        reasoning = message.get("reasoning_content") or message.get("reasoning")
        return bool(hidden or parts or reasoning or strip_reasoning(text_of(content)) != text_of(content))
    except (AttributeError, LookupError, TypeError):
        return False


class OpenAI(API):
    """One model at one server."""

    provider, home, path = "openai", "https://api.openai.com/v1", "/chat/completions"
    endpoints, root, variable = ("/completions", "/chat", "/models"), "/v1", "OPENAI_API_KEY"
    read = staticmethod(read)
    notes: Store | None = None  # remembers what an unknown model took

    def parameters(self, able: Capabilities, request: Request) -> dict[str, Any]:
        """See the function of that name."""
        old_server = bool(self.base_url) and capabilities.of(self.name) is None
        return parameters(self.model, able, request, old_server)

    def open(self, **options: Any) -> Any:
        """Returns a client of the SDK; a server of one's own may do without a key."""
        if self.base_url:
            options |= {"base_url": self.base_url, "api_key": os.environ.get("OPENAI_API_KEY") or "none"}
        return self.sdk.AsyncOpenAI(**options)

    def can_do_without_key(self) -> bool:
        """Returns whether a server of one's own is asked."""
        return bool(self.base_url)

    async def look_up(self) -> Capabilities:
        """Returns the capabilities of the table; an unknown model gets a tiny request.

        First the model's entry is requested, which fails if the key or the model is wrong. A server of one's own is
        asked for its list of models instead, and need not have one.
        """
        try:
            path = "/models" if self.base_url else f"/models/{self.model}"
            await self.fetch(path)
        except self.sdk.APIStatusError as error:
            if not self.base_url or error.status_code in (401, *BUSY, *BROKEN):
                raise
        return capabilities.of(self.name) or await self._remembered()

    async def _remembered(self) -> Capabilities:
        place = f"{self.name} at {self.client.base_url}"
        if self.notes is not None and (note := self.notes.note(place)):
            return Capabilities(**note)
        able = await self._probe()
        if self.notes is not None:
            names = ("sampling", "json_schema", "hidden_tokens")
            self.notes.remember(place, {name: getattr(able, name) for name in names})
        return able

    async def _probe(self) -> Capabilities:
        """Returns the most that the server takes of a schema and a temperature."""
        for able in (
            Capabilities(sampling=True, json_schema=True),
            Capabilities(sampling=True),
            Capabilities(json_schema=True),
        ):
            try:
                body = self.parameters(able, PROBE)
                answer = await self.fetch(self.path, body)
            except self.sdk.APIStatusError as error:
                if error.status_code in (400, 422) or (able.json_schema and _refuses_schema(error)):
                    continue
                raise
            self.read(answer)  # another kind of server is found out here
            return dataclasses.replace(able, hidden_tokens=HIDDEN if reasons(answer) else 0)
        return Capabilities()

    def correct(self, able: Capabilities, request: Request, outcome: Any) -> dict[str, Any]:
        """Sends a request again without a schema that the server refuses, or with room for reasoning."""
        if isinstance(outcome, Exception):
            refused = able.json_schema and bool(request.schema) and _refuses_schema(outcome)
            return {"json_schema": False} if refused else {}
        return {"hidden_tokens": HIDDEN} if not able.hidden_tokens and reasons(outcome) else {}

    # --- batch jobs (lc_jax.llm.batch.Endpoint) ---

    async def submit(self, client: Any, job: str, requests: Mapping[str, Request], able: Capabilities) -> str:
        """Uploads the requests and starts a batch that carries the job's name."""
        path = "/v1/chat/completions"
        lines = [
            {"custom_id": key, "method": "POST", "url": path, "body": self.parameters(able, request)}
            for key, request in requests.items()
        ]
        content = "\n".join(map(json.dumps, lines)).encode()
        file = await client.files.create(file=(f"{job}.jsonl", content), purpose="batch")
        batch = await client.batches.create(
            input_file_id=file.id, endpoint=path, completion_window="24h", metadata={"job": job}
        )
        return batch.id

    async def candidates(self, client: Any, job: str, size: int, since: float) -> list[str]:
        """Returns the batch that carries the job's name, if there is one."""
        async for batch in client.batches.list(limit=100):
            if (batch.metadata or {}).get("job") == job:
                return [batch.id]
            if batch.created_at < since - 60:
                break  # the list begins with the newest
        return []

    async def ended(self, client: Any, job_id: str) -> bool:
        """Returns whether a batch is done, well or badly."""
        return (await client.batches.retrieve(job_id)).status in ("completed", "failed", "expired", "cancelled")

    async def results(self, client: Any, job_id: str) -> dict[str, Reply | None]:
        """Returns replies by custom id; None for what has to be asked again.

        Raises:
          AnnotatorError: the provider refused the batch as a whole.
        """
        batch = await client.batches.retrieve(job_id)
        if batch.status == "failed":
            errors = batch.errors.data if batch.errors and batch.errors.data else []
            raise AnnotatorError(f"{self.name} refused batch job {job_id}: {'; '.join(str(e.message) for e in errors)}")
        replies: dict[str, Reply | None] = {}
        for file_id in filter(None, (batch.output_file_id, batch.error_file_id)):
            for line in (await client.files.content(file_id)).text.split("\n"):
                if line:
                    row = json.loads(line)
                    replies[row["custom_id"]] = _batched(row)
        return replies

    async def cancel(self, client: Any, job_id: str) -> None:
        """Stops a batch."""
        await client.batches.cancel(job_id)


def _refuses_schema(error: Exception) -> bool:
    """Returns whether an error of the SDK says that the server takes no schema."""
    return getattr(error, "status_code", 0) in _REFUSALS and bool(_NO_SCHEMA.search(str(error)))


def _batched(row: Mapping[str, Any]) -> Reply | None:
    """Returns the reply in a line of a batch's files; None if it has to be asked again."""
    response = row.get("response") or {}
    if response.get("status_code") == 200:
        return read_line(read, response.get("body"))
    if response.get("status_code") in (400, 422):
        return Reply("failed", detail=json.dumps(response.get("body"))[:500])
    return None


def load(model: str, *, base_url: str | None = None, **policy: Any) -> OpenAI:
    """Returns the annotator "openai/<model>".

    Args:
      base_url: another server that speaks the protocol (vLLM, llama.cpp, Ollama ...), as in "http://localhost:8000/v1".
      policy: fields of Policy (concurrency, attempts, deadline ...).
    """
    return OpenAI(model, base_url, Policy(**policy))
