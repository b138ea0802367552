"""Models behind the chat completions protocol, through OpenAI's SDK: OpenAI's own, or any server at a `base_url`.

"openai/gpt-..."; the key is the environment's (OPENAI_API_KEY), and servers of one's own may do without.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from typing import Any

from lc_jax.llm import asking, capabilities
from lc_jax.llm.api import API
from lc_jax.llm.asking import Fatal, Policy, Transient
from lc_jax.llm.capabilities import Capabilities
from lc_jax.llm.store import Store
from lc_jax.llm.transport import http_client, send, without
from lc_jax.types import Reply, Request, Usage

PROBE = Request(
    'Reply with {"ok": true}', 0.0, 16, schema='{"type": "object", "properties": {"ok": {"type": "boolean"}}, '
    '"required": ["ok"], "additionalProperties": false}',
)  # fmt: skip


def parameters(model: str, able: Capabilities, request: Request, old_server: bool = False) -> dict[str, Any]:
    """The body of POST /chat/completions; holds nothing that the model does not take."""
    body: dict[str, Any] = {
        "model": model,
        # OpenAI's reasoning models refuse the old name, older servers do not know the new one.
        "max_tokens" if old_server else "max_completion_tokens": request.max_tokens + able.hidden_tokens,
        "messages": [{"role": "user", "content": request.prompt}],
    }
    if able.json_schema and request.schema:
        form = {"name": "reply", "strict": True, "schema": json.loads(request.schema)}
        body["response_format"] = {"type": "json_schema", "json_schema": form}
    if able.sampling:
        body["temperature"] = request.temperature
    if able.reasoning:
        body["reasoning_effort"] = able.reasoning
    return body


def read(completion: Mapping[str, Any]) -> Reply:
    """The reply that a chat completion in JSON holds."""
    choice = completion["choices"][0]
    message, stop = choice["message"], choice["finish_reason"]
    text = message.get("content") or ""
    counts = completion.get("usage") or {}
    cached = (counts.get("prompt_tokens_details") or {}).get("cached_tokens") or 0
    usage = Usage(counts.get("prompt_tokens", 0), counts.get("completion_tokens", 0), cached)
    if message.get("refusal") or stop == "content_filter":
        return Reply("refused", text, message.get("refusal") or f"finish reason {stop}", usage)
    if stop == "length":
        return Reply("truncated", text, f"finish reason {stop}", usage)
    if not text.strip():
        return Reply("invalid", text, "the reply is empty", usage)
    return Reply("ok", text, "", usage)


class OpenAI(API):
    """One model at one server."""

    provider, path = "openai", "/chat/completions"
    read = staticmethod(read)
    notes: Store | None = None  # remembers what an unknown model took

    def parameters(self, able: Capabilities, request: Request) -> dict[str, Any]:
        """See the function of that name."""
        old_server = bool(self.base_url) and capabilities.of(self.name) is None
        return parameters(self.model, able, request, old_server)

    def open(self) -> Any:
        """A client of the SDK.

        Raises:
          Fatal: there is no key.
        """
        import openai

        options: dict[str, Any] = {}
        if self.base_url:
            options = {"base_url": self.base_url, "api_key": os.environ.get("OPENAI_API_KEY", "none")}
        try:
            return openai.AsyncOpenAI(max_retries=0, http_client=http_client(self.policy.deadline), **options)
        except openai.OpenAIError as error:
            raise Fatal(f"{self.name}: {error} Set OPENAI_API_KEY.") from None

    async def look_up(self, client: Any) -> Capabilities:
        """The table's; an unknown model gets a tiny request. OpenAI is asked whether key and model are good."""
        if not self.base_url:
            await send(client, f"/models/{self.model}")
        return capabilities.of(self.name) or await self._remembered(client)

    async def _remembered(self, client: Any) -> Capabilities:
        place = f"{self.name} at {client.base_url}"
        if self.notes is not None and (note := self.notes.note(place)):
            return Capabilities(**note)
        found = await self._probe(client)
        if self.notes is not None:
            self.notes.remember(place, {"sampling": found.sampling, "json_schema": found.json_schema})
        return found

    async def _probe(self, client: Any) -> Capabilities:
        """The most that the server takes of a schema and a temperature."""
        import openai

        for wished in (
            Capabilities(sampling=True, json_schema=True),
            Capabilities(sampling=True),
            Capabilities(json_schema=True),
        ):
            try:
                await send(client, self.path, self.parameters(wished, PROBE))
                return wished
            except (openai.BadRequestError, openai.UnprocessableEntityError):
                continue
        return Capabilities()

    def fault(self, client: Any, error: Exception) -> Reply:
        """See lc_jax.llm.api.API."""
        import openai

        detail = without(client.api_key, f"{self.name}: {error}")
        if isinstance(error, openai.APIStatusError):
            return asking.refusal(error.status_code, error.response.headers, detail)
        if isinstance(
            error, (openai.APIError, ValueError, LookupError, TypeError)
        ):  # no connection; not a reply's JSON
            raise Transient(detail) from None
        raise error

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
        """The batch that carries the job's name, if there is one."""
        async for batch in client.batches.list(limit=100):
            if (batch.metadata or {}).get("job") == job:
                return [batch.id]
            if batch.created_at < since - 60:
                break  # the list begins with the newest
        return []

    async def ended(self, client: Any, job_id: str) -> bool:
        """Whether a batch is done, well or badly."""
        return (await client.batches.retrieve(job_id)).status in ("completed", "failed", "expired", "cancelled")

    async def results(self, client: Any, job_id: str) -> dict[str, Reply | None]:
        """Replies by custom id; None for what has to be asked again.

        Raises:
          Fatal: the vendor refused the batch as a whole.
        """
        batch = await client.batches.retrieve(job_id)
        if batch.status == "failed":
            errors = batch.errors.data if batch.errors and batch.errors.data else []
            raise Fatal(f"{self.name} refused batch job {job_id}: {'; '.join(str(e.message) for e in errors)}")
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


def _batched(row: Mapping[str, Any]) -> Reply | None:
    """The reply in a line of a batch's files; None if it has to be asked again."""
    response = row.get("response") or {}
    if response.get("status_code") == 200:
        return read(response["body"])
    if response.get("status_code") in (400, 422):
        return Reply("failed", detail=json.dumps(response.get("body"))[:500])
    return None


def load(model: str, *, base_url: str | None = None, **policy: Any) -> OpenAI:
    """The annotator "openai/<model>".

    Args:
      base_url: another server that speaks the protocol (vLLM, llama.cpp, Ollama ...), as in "http://localhost:8000/v1".
      policy: fields of Policy (concurrency, attempts, deadline ...).
    """
    return OpenAI(model, base_url, Policy(**policy))
