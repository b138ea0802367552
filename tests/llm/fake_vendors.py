"""Fakes of the two vendors' endpoints, as far as annotators use them."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from typing import Any

from lc_jax.types import Reply, Request

NO_SAMPLING = ("claude-opus-5", "claude-sonnet-5", "claude-haiku-5", "claude-opus-4-7", "claude-opus-4-8")
RETIRED = ("claude-3-opus",)
REASONING = ("gpt-5", "gpt-6", "o1", "o3", "o4")
ISO = "2026-11-01T00:00:00Z"


class Refused(Exception):
    """An HTTP error."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


def dump(value: Any) -> bytes:
    return json.dumps(value, ensure_ascii=False).encode()


class Vendor:
    """Shared by both: batch jobs live here, by id."""

    path = ""

    def __init__(self, server: Any) -> None:
        self.server = server
        self.jobs: dict[str, dict[str, Any]] = {}  # id -> {"requests", "created", "metadata", "replies", "cancelled"}
        self.spoil: dict[str, str] = {}  # custom id -> "expired" or "errored"
        self.num_billed: dict[str, int] = {}  # custom id -> how often it was answered in a batch

    def read(self, body: dict[str, Any]) -> Request:
        prompt = body["messages"][-1]["content"]
        if isinstance(prompt, list):
            prompt = "".join(block["text"] for block in prompt)
        most = body.get("max_tokens") or body.get("max_completion_tokens") or 0
        return Request(prompt, body.get("temperature", 1.0), most)

    def check(self, body: dict[str, Any]) -> None: ...

    def write(self, body: dict[str, Any], request: Request, reply: Reply) -> bytes:
        raise NotImplementedError

    def ended(self, job: dict[str, Any]) -> bool:
        return job["cancelled"] or time.monotonic() - job["created"] >= self.server.batch_delay

    def run(self, job: dict[str, Any]) -> dict[str, tuple[str, Any]]:
        """custom id -> (kind, payload), made once, in no order that the requests had."""
        if job["replies"] is None:
            job["replies"] = {}
            for custom_id, body in reversed(job["requests"]):
                kind = self.spoil.get(custom_id, "canceled" if job["cancelled"] else "succeeded")
                payload = None
                if kind == "succeeded":
                    request = self.read(body)
                    payload = json.loads(self.write(body, request, self.server.reply(request, None)))
                    self.num_billed[custom_id] = self.num_billed.get(custom_id, 0) + 1
                job["replies"][custom_id] = (kind, payload)
        return job["replies"]

    def submit(self, requests: list[tuple[str, dict[str, Any]]], metadata: dict[str, str] | None = None) -> str:
        job_id = f"batch_{len(self.jobs)}"
        self.jobs[job_id] = {"requests": requests, "created": time.monotonic(), "metadata": metadata or {},
                             "date": datetime.now(UTC).isoformat(),
                             "replies": None, "cancelled": False}  # fmt: skip
        return job_id


class Anthropic(Vendor):
    """Messages, token counting, models, message batches."""

    path = "/v1/messages"

    def error(self, status: int, message: str) -> bytes:
        kinds = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error", 529: "overloaded_error"}
        return dump(
            {"type": "error", "error": {"type": kinds.get(status, "invalid_request_error"), "message": message}}
        )

    def check(self, body: dict[str, Any]) -> None:
        model = body["model"]
        if not model.startswith("claude-") or model.startswith(RETIRED):
            raise Refused(404, f"model: {model}")
        if model.startswith(NO_SAMPLING) and {"temperature", "top_p", "top_k"} & set(body):
            raise Refused(400, "`temperature` is deprecated for this model.")
        if body["messages"][-1]["role"] != "user":
            raise Refused(400, "Prefilling assistant messages is not supported for this model.")
        if body.get("thinking", {}).get("type") == "disabled" and model.startswith("claude-opus-5-5"):
            raise Refused(400, '"thinking.type.disabled" is not supported for this model.')

    def write(self, body: dict[str, Any], request: Request, reply: Reply) -> bytes:
        stop = {"refused": "refusal", "truncated": "max_tokens"}.get(reply.status, "end_turn")
        num_input, num_output = self.server.price(request.prompt, reply.text)
        blocks = [{"type": "thinking", "thinking": "", "signature": "x"}] if "thinking" not in body else []
        blocks += [{"type": "text", "text": reply.text}] if reply.text else []
        usage = {"input_tokens": num_input, "output_tokens": num_output, "cache_read_input_tokens": 0}
        return dump({"id": "msg_1", "type": "message", "role": "assistant", "model": body["model"], "content": blocks,
                     "stop_reason": stop, "stop_sequence": None, "usage": usage})  # fmt: skip

    def route(self, method: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
        if match := re.fullmatch(r"/v1/models/([^/]+)", path):
            return self.model(match[1])
        if path == "/v1/messages/count_tokens":
            return dump({"input_tokens": len(self.read(json.loads(body)).prompt) // 4 + 1})
        if path == "/v1/messages/batches" and method == "POST":
            requests = [(item["custom_id"], item["params"]) for item in json.loads(body)["requests"]]
            return dump(self.job(self.submit(requests)))
        if path.partition("?")[0] == "/v1/messages/batches":
            jobs = [self.job(job_id) for job_id in reversed(self.jobs)]
            return dump({"data": jobs, "has_more": False, "first_id": None, "last_id": None})
        match = re.fullmatch(r"/v1/messages/batches/([^/]+)(/results|/cancel)?", path)
        if not match or match[1] not in self.jobs:
            raise Refused(404, f"not found: {path}")
        if match[2] == "/results":
            return self.results(self.jobs[match[1]])
        if match[2] == "/cancel":
            self.jobs[match[1]]["cancelled"] = True
        return dump(self.job(match[1]))

    def model(self, name: str) -> bytes:
        if not name.startswith("claude-"):
            raise Refused(404, f"model: {name}")
        yes = {"supported": True}
        off = {"supported": not name.startswith(("claude-opus-5-5", "claude-sonnet-5-5"))}
        kinds = {"adaptive": yes, "between_tools": {"supported": name.startswith("claude-sonnet-5-5")}, "disabled": off}
        capabilities = {"batch": yes, "structured_outputs": yes, "thinking": {"supported": True, "types": kinds}}
        lifecycle = "retired" if name.startswith(RETIRED) else "active"
        return dump({"id": name, "type": "model", "created_at": ISO, "display_name": name, "lifecycle": lifecycle,
                     "max_input_tokens": 200_000, "max_tokens": 64_000, "capabilities": capabilities})  # fmt: skip

    def job(self, job_id: str) -> dict[str, Any]:
        job = self.jobs[job_id]
        counts = dict.fromkeys(("canceled", "errored", "expired", "succeeded"), 0)
        counts["processing"] = len(job["requests"])
        url = f"{self.server.anthropic_url}/v1/messages/batches/{job_id}/results" if self.ended(job) else None
        return {
            "id": job_id,
            "type": "message_batch",
            "created_at": job["date"],
            "expires_at": ISO,
            "request_counts": counts,
            "processing_status": "ended" if self.ended(job) else "in_progress",
            "results_url": url,
        }

    def results(self, job: dict[str, Any]) -> bytes:
        lines = []
        for custom_id, (kind, payload) in self.run(job).items():
            result: dict[str, Any] = {"type": kind}
            if kind == "succeeded":
                result["message"] = payload
            if kind == "errored":
                result["error"] = json.loads(self.error(500, "injected"))
            lines.append(dump({"custom_id": custom_id, "result": result}))
        return b"\n".join(lines) + b"\n"


class OpenAI(Vendor):
    """Chat completions, models, files, batches."""

    path = "/v1/chat/completions"

    def __init__(self, server: Any) -> None:
        super().__init__(server)
        self.files: dict[str, bytes] = {}

    def error(self, status: int, message: str) -> bytes:
        code = "insufficient_quota" if "quota" in message else None
        return dump({"error": {"message": message, "type": "invalid_request_error", "param": None, "code": code}})

    def check(self, body: dict[str, Any]) -> None:
        model = body["model"]
        if model.startswith("missing"):
            raise Refused(404, f"The model `{model}` does not exist")
        if model.startswith(REASONING) and "max_tokens" in body:
            raise Refused(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead.")
        if model.startswith(REASONING) and "temperature" in body and body.get("reasoning_effort") != "none":
            raise Refused(400, "Unsupported value: 'temperature' does not support 0.2 with this model.")
        if model.startswith("plain") and "response_format" in body:
            raise Refused(400, "response_format is not supported by this server")

    def write(self, body: dict[str, Any], request: Request, reply: Reply) -> bytes:
        refused = reply.status == "refused"
        message = {"role": "assistant", "content": None if refused else reply.text}
        message["refusal"] = "I cannot help with that." if refused else None
        num_input, num_output = self.server.price(request.prompt, reply.text)
        usage = {"prompt_tokens": num_input, "completion_tokens": num_output, "total_tokens": num_input + num_output,
                 "prompt_tokens_details": {"cached_tokens": 0}}  # fmt: skip
        choice = {"index": 0, "message": message, "finish_reason": "length" if reply.status == "truncated" else "stop"}
        return dump({"id": "c", "object": "chat.completion", "created": 1, "model": body["model"], "choices": [choice],
                     "usage": usage})  # fmt: skip

    def route(self, method: str, path: str, headers: dict[str, str], body: bytes) -> bytes:
        if match := re.fullmatch(r"/v1/models/([^/]+)", path):
            if match[1].startswith("missing"):
                raise Refused(404, f"The model `{match[1]}` does not exist")
            return dump({"id": match[1], "object": "model", "created": 1, "owned_by": "tests"})
        if path == "/v1/files":
            boundary = headers["content-type"].partition("boundary=")[2].encode()
            part = next(part for part in body.split(b"--" + boundary) if b'name="file"' in part)
            file_id = self.keep(part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n"))
            return dump({"id": file_id, "object": "file", "bytes": 1, "created_at": 1, "filename": "b.jsonl",
                         "purpose": "batch", "status": "processed"})  # fmt: skip
        if match := re.fullmatch(r"/v1/files/([^/]+)/content", path):
            return self.files[match[1]]
        if path == "/v1/batches" and method == "POST":
            job = json.loads(body)
            rows = [json.loads(line) for line in self.files[job["input_file_id"]].splitlines()]
            return dump(self.job(self.submit([(row["custom_id"], row["body"]) for row in rows], job["metadata"])))
        if path.partition("?")[0] == "/v1/batches":
            jobs = [self.job(job_id) for job_id in reversed(self.jobs)]
            return dump({"object": "list", "data": jobs, "has_more": False})
        match = re.fullmatch(r"/v1/batches/([^/]+)(/cancel)?", path)
        if not match or match[1] not in self.jobs:
            raise Refused(404, f"not found: {path}")
        if match[2]:
            self.jobs[match[1]]["cancelled"] = True
        return dump(self.job(match[1]))

    def keep(self, content: bytes) -> str:
        file_id = f"file-{len(self.files)}"
        self.files[file_id] = content
        return file_id

    def job(self, job_id: str) -> dict[str, Any]:
        job = self.jobs[job_id]
        record = {"id": job_id, "object": "batch", "completion_window": "24h", "created_at": int(time.time()),
                  "endpoint": self.path, "input_file_id": "file-0", "metadata": job["metadata"],
                  "status": "completed" if self.ended(job) else "in_progress"}  # fmt: skip
        if self.ended(job):
            if "output" not in job:
                job["output"], job["errors"] = (self.keep(text) for text in self.results(job))
            record |= {"output_file_id": job["output"], "error_file_id": job["errors"]}
        return record

    def results(self, job: dict[str, Any]) -> tuple[bytes, bytes]:
        good, bad = [], []
        for custom_id, (kind, payload) in self.run(job).items():
            row: dict[str, Any] = {"id": "r", "custom_id": custom_id, "error": None, "response": None}
            if kind == "succeeded":
                good.append(dump(row | {"response": {"status_code": 200, "request_id": "r", "body": payload}}))
            else:
                bad.append(dump(row | {"error": {"code": f"batch_{kind}", "message": kind}}))
        return b"\n".join(good), b"\n".join(bad)
