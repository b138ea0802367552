"""Claude models through Anthropic's SDK: "anthropic/claude-..."; the key is the environment's (ANTHROPIC_API_KEY)."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

from lc_jax.llm import AnnotatorError, capabilities
from lc_jax.llm.api import API, Policy
from lc_jax.llm.capabilities import HIDDEN, Capabilities
from lc_jax.llm.replies import count, finished, one_line, read_line, text_of, tolerant
from lc_jax.types import Reply, Request, Usage

_LEAST_REASONING = ("disabled", "between_tools")  # the first that the model takes
_CUT_OFF = ("max_tokens", "model_context_window_exceeded")


def parameters(model: str, able: Capabilities, request: Request) -> dict[str, Any]:
    """Returns the body of POST /v1/messages; holds nothing that the model does not take."""
    body: dict[str, Any] = {
        "model": model,
        "max_tokens": request.max_tokens + able.hidden_tokens,
        "messages": [{"role": "user", "content": request.prompt}],
    }
    config: dict[str, Any] = {"effort": "low"} if able.hidden_tokens else {}
    if able.json_schema and request.schema:
        config["format"] = {"type": "json_schema", "schema": json.loads(request.schema)}
    if config:
        body["output_config"] = config
    if able.sampling:
        body["temperature"] = request.temperature
    if able.reasoning:
        body["thinking"] = {"type": able.reasoning}
    return body


@tolerant
def read(message: Mapping[str, Any]) -> Reply:
    """Returns the reply that a Message in JSON holds.

    Raises:
      Malformed: the JSON is no message.
    """
    text, stop = text_of(message["content"]), message.get("stop_reason")
    counts = message.get("usage") or {}
    cached = count(counts.get("cache_read_input_tokens"))
    total = count(counts.get("input_tokens")) + cached + count(counts.get("cache_creation_input_tokens"))
    usage = Usage(total, count(counts.get("output_tokens")), cached)
    if stop == "refusal":
        return Reply("refused", text, f"stop reason {stop}", usage)
    return finished(text, usage, f"stop reason {stop}" if stop in _CUT_OFF else "")


class Anthropic(API):
    """One Claude model."""

    provider, home, path = "anthropic", "https://api.anthropic.com", "/v1/messages"
    endpoints, root, variable = ("/messages", "/v1"), "", "ANTHROPIC_API_KEY"
    read = staticmethod(read)

    def parameters(self, able: Capabilities, request: Request) -> dict[str, Any]:
        """See the function of that name."""
        return parameters(self.model, able, request)

    def open(self, **options: Any) -> Any:
        """Returns a client of the SDK, which says only when it is used that there is no key."""
        return self.sdk.AsyncAnthropic(**options | ({"base_url": self.base_url} if self.base_url else {}))

    def can_do_without_key(self) -> bool:
        """Returns whether the SDK finds a token, a profile or another identity."""
        try:
            client = self.open(http_client=self.http_client())
        except self.sdk.AnthropicError as error:
            raise ValueError(f"{self.name}: {one_line(error)} Or set {self.variable}.") from None
        return bool(client.api_key or client.auth_token or client.credentials)

    async def look_up(self) -> Capabilities:
        """Returns the capabilities of the table, corrected by the model's record."""
        record = await self.fetch(f"/v1/models/{self.model}")
        return _merge(self.name, capabilities.of(self.name) or Capabilities(), record)

    # --- batch jobs (lc_jax.llm.batch.Endpoint) ---

    async def submit(self, client: Any, job: str, requests: Mapping[str, Request], able: Capabilities) -> str:
        """Starts a message batch. It has no name of its own: it is known by its custom ids."""
        items = [
            {"custom_id": key, "params": parameters(self.model, able, request)} for key, request in requests.items()
        ]
        return (await client.messages.batches.create(requests=items)).id

    async def candidates(self, client: Any, job: str, size: int, since: float) -> list[str]:
        """Returns the batches of that size made since then."""
        ids = []
        async for batch in client.messages.batches.list(limit=100):
            if batch.created_at.timestamp() < since - 60:
                break  # the list begins with the newest
            counts = batch.request_counts
            if counts.processing + counts.succeeded + counts.errored + counts.canceled + counts.expired == size:
                ids.append(batch.id)
        return ids

    async def ended(self, client: Any, job_id: str) -> bool:
        """Returns whether a batch is done."""
        return (await client.messages.batches.retrieve(job_id)).processing_status == "ended"

    async def results(self, client: Any, job_id: str) -> dict[str, Reply | None]:
        """Returns replies by custom id; None for what has to be asked again."""
        replies: dict[str, Reply | None] = {}
        async for item in await client.messages.batches.results(job_id):
            result = item.result.model_dump()
            replies[item.custom_id] = None
            if result["type"] == "succeeded":
                replies[item.custom_id] = read_line(read, result["message"])
            elif result["type"] == "errored" and result["error"]["error"]["type"] == "invalid_request_error":
                replies[item.custom_id] = Reply("failed", detail=result["error"]["error"]["message"])
        return replies

    async def cancel(self, client: Any, job_id: str) -> None:
        """Stops a batch."""
        await client.messages.batches.cancel(job_id)


def _merge(name: str, defaults: Capabilities, record: Mapping[str, Any]) -> Capabilities:
    if record.get("lifecycle") == "retired":
        raise AnnotatorError(f"{name} is retired: choose another model.")
    reported = record.get("capabilities") or {}
    kinds = (reported.get("thinking") or {}).get("types") or {}

    def supported(where: Mapping[str, Any], what: str, default: bool) -> bool:
        return bool((where.get(what) or {}).get("supported", default))

    reasoning = next((kind for kind in _LEAST_REASONING if supported(kinds, kind, False)), "")
    return dataclasses.replace(
        defaults,
        json_schema=supported(reported, "structured_outputs", defaults.json_schema),
        batch=supported(reported, "batch", defaults.batch),
        context=record.get("max_input_tokens") or defaults.context,
        reasoning=reasoning,
        hidden_tokens=HIDDEN if kinds and not reasoning else 0,
    )


def load(model: str, *, base_url: str | None = None, **policy: Any) -> Anthropic:
    """Returns the annotator "anthropic/<model>".

    Args:
      base_url: another server that speaks Anthropic's protocol.
      policy: fields of Policy (concurrency, attempts, deadline ...).
    """
    return Anthropic(model, base_url, Policy(**policy))
