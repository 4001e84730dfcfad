"""Files and batches of the built-in server: OpenAI's Batch API, worked off in the background.

The forms are OpenAI's (https://platform.openai.com/docs/api-reference/batch and …/files). A batch is checked,
answered line by line with the rules of the live protocols, and ends as completed, expired or cancelled with an
output file and an error file, or as failed. Contents lie in anonymous temporary files, which the operating system
removes with the process, however that ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import email.parser
import email.policy
import itertools
import math
import mmap
import os
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, TypeVar

import msgspec
from starlette.requests import Request
from starlette.responses import Response, StreamingResponse
from starlette.routing import Route

from synthie.llm.service_protocol import PROTOCOLS, Refused, decode, encode, json_response

__all__ = ["BatchRules", "Batches"]

_WINDOW_S = 24 * 3600
_MAX_UPLOAD_BYTES = 512 << 20
_BLOCK_BYTES = 1 << 20
_AT_ONCE = 16  # lines of a batch that are answered at the same time
_LINES_PER_TURN = 500  # checked before the event loop gets a turn
_MAX_ERRORS = 20  # told of one batch
_BYTES_PER_TOKEN = 4
_HELD_POLL_S = 0.01

_Handler = Callable[[Request], Awaitable[Response]]
_Answering = Callable[[str, bytes], Awaitable[tuple[int, bytes]]]


@dataclass(frozen=True, slots=True)
class BatchRules:
    """Limits of batches, and faults for trials.

    Attributes:
        max_requests, max_bytes: of one batch; above, it fails its check.
        max_enqueued_tokens: input tokens of all unfinished batches; a batch above fails its check. None: no limit.
        line_s: seconds that a line takes.
        expire_after: lines of a batch that are answered before it expires. None: it does not.
        held_by: a file; while it is there, a batch gets no more lines answered than the number in it. None: no hold.
    """

    max_requests: int = 50_000
    max_bytes: int = 200_000_000
    max_enqueued_tokens: int | None = None
    line_s: float = 0.0
    expire_after: int | None = None
    held_by: str | None = None


class Batches:
    """Files and batches.

    Args:
        answer: status and body of the answer to a request body sent to a path.
        rules: limits and faults.
        model: the only model there is.
    """

    def __init__(self, answer: _Answering, rules: BatchRules, model: str) -> None:
        self._answer = answer
        self._rules = rules
        self._model = model
        self._files: dict[str, _File] = {}
        self._batches: dict[str, _Batch] = {}
        self._enqueued: dict[str, int] = {}  # id of an unfinished batch -> its tokens
        self._line_statuses: Counter[int] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()

    def routes(self, guarded: Callable[[_Handler], _Handler]) -> list[Route]:
        handlers = {
            ("POST", "/v1/files"): self._upload,
            ("GET", "/v1/files"): self._list_files,
            ("GET", "/v1/files/{id}"): self._file,
            ("DELETE", "/v1/files/{id}"): self._delete,
            ("GET", "/v1/files/{id}/content"): self._content,
            ("POST", "/v1/batches"): self._create,
            ("GET", "/v1/batches"): self._list_batches,
            ("GET", "/v1/batches/{id}"): self._retrieve,
            ("POST", "/v1/batches/{id}/cancel"): self._cancel,
        }
        return [Route(path, guarded(handler), methods=[method]) for (method, path), handler in handlers.items()]

    def statistics(self) -> dict[str, Any]:
        """Batches created, and their lines that were answered, by status."""
        statuses = {str(status): count for status, count in sorted(self._line_statuses.items())}
        return {"batches": len(self._batches), "batch_lines": statuses}

    # --- Files ---

    async def _upload(self, request: Request) -> Response:
        fields = await _form(request)
        purpose, content = fields.get("purpose"), fields.get("file")
        if purpose is None or purpose.text() != "batch":
            raise Refused(400, "Only files for batches are kept here: set 'purpose' to 'batch'.", param="purpose")
        if content is None or content.name is None:
            raise Refused(400, "'file' is a required property.", param="file")
        file = _File(content.name, "batch", content.handle, content.start, content.end)
        return json_response(self._keep(file).described())

    async def _list_files(self, request: Request) -> Response:
        purpose = request.query_params.get("purpose")
        files = [file for file in self._files.values() if purpose in (None, file.purpose)]
        return _page(request, [file.described() for file in files])

    async def _file(self, request: Request) -> Response:
        return json_response(_found(self._files, request, "File").described())

    async def _delete(self, request: Request) -> Response:
        file = _found(self._files, request, "File")
        del self._files[file.id]
        return json_response({"id": file.id, "object": "file", "deleted": True})

    async def _content(self, request: Request) -> Response:
        return StreamingResponse(_found(self._files, request, "File").blocks(), media_type="application/octet-stream")

    def _keep(self, file: _File) -> _File:
        self._files[file.id] = file
        return file

    # --- Batches ---

    async def _create(self, request: Request) -> Response:
        asked = decode(_decode_creation, await request.body())
        if asked.endpoint not in PROTOCOLS:
            raise Refused(400, f"Batches are taken for {', '.join(PROTOCOLS)}.", param="endpoint")
        file = self._files.get(asked.input_file_id)
        if file is None:
            raise Refused(400, f"Cannot find file {asked.input_file_id}.", param="input_file_id")
        batch = _Batch(
            id=f"batch_{uuid.uuid4().hex}",
            endpoint=asked.endpoint,
            input_file_id=file.id,
            completion_window=asked.completion_window,
            created_at=_now(),
            expires_at=_now() + _WINDOW_S,
            metadata=asked.metadata,
        )
        self._batches[batch.id] = batch
        task = asyncio.create_task(self._run(batch, file))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return json_response(batch)

    async def _list_batches(self, request: Request) -> Response:
        return _page(request, [msgspec.to_builtins(batch) for batch in reversed(self._batches.values())])

    async def _retrieve(self, request: Request) -> Response:
        return json_response(_found(self._batches, request, "Batch"))

    async def _cancel(self, request: Request) -> Response:
        batch = _found(self._batches, request, "Batch")
        if batch.status not in ("validating", "in_progress", "cancelling"):
            raise Refused(409, f"Cannot cancel a batch with status '{batch.status}'.")
        if batch.status != "cancelling":
            batch.status, batch.cancelling_at = "cancelling", _now()
        return json_response(batch)

    async def _run(self, batch: _Batch, file: _File) -> None:
        errors = await self._check(batch, file)
        if errors:
            batch.errors = {"object": "list", "data": errors}
            batch.status, batch.failed_at = "failed", _now()
            return
        if batch.status == "validating":
            batch.status, batch.in_progress_at = "in_progress", _now()
        try:
            await self._answer_all(batch, file)
        finally:
            del self._enqueued[batch.id]

    async def _check(self, batch: _Batch, file: _File) -> list[dict[str, Any]]:
        """What is wrong with a batch; nothing, and its tokens are enqueued, if it can be worked off."""
        errors: list[dict[str, Any]] = []
        known: set[str] = set()
        number = size = 0
        for number, raw in enumerate(file.lines(), start=1):
            if number % _LINES_PER_TURN == 0:
                await asyncio.sleep(0)
            try:
                line = _decode_line(raw)
                model = _decode_model(line.body).model
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                errors.append(_error("invalid_json_line", f"This line is not a request: {error}.", number))
                continue
            size += len(line.body)
            if line.custom_id in known:
                errors.append(_error("duplicate_custom_id", "The custom_id is used more than once.", number))
            if line.url != batch.endpoint:
                errors.append(_error("invalid_url", f"The URL does not match {batch.endpoint}.", number))
            if model != self._model:
                errors.append(_error("model_not_found", f"The model '{model}' does not exist.", number))
            known.add(line.custom_id)
        if not number:
            errors.append(_error("empty_file", "The batch input file is empty."))
        if number > self._rules.max_requests or file.size > self._rules.max_bytes:
            limits = f"{self._rules.max_requests:,} requests and {self._rules.max_bytes:,} bytes"
            errors.append(_error("request_limit_exceeded", f"A batch has at most {limits}."))
        tokens, limit = size // _BYTES_PER_TOKEN, self._rules.max_enqueued_tokens
        if limit is not None and sum(self._enqueued.values()) + tokens > limit:
            told = (
                f"Enqueued token limit reached for {self._model}. Limit: {limit:,} enqueued tokens. "
                "Please try again once some in_progress batches have been completed."
            )
            errors.append(_error("token_limit_exceeded", told))
        if not errors:
            batch.model = self._model
            batch.request_counts.total = number
            self._enqueued[batch.id] = tokens
        return errors[:_MAX_ERRORS]

    async def _answer_all(self, batch: _Batch, file: _File) -> None:
        output, errors = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115 - kept by the files
        lines = iter(file.lines())
        last = self._rules.expire_after
        answered = 0
        while await self._goes_on(batch, answered):
            allowed = _AT_ONCE if last is None else min(_AT_ONCE, last - answered)
            chunk = [_decode_line(raw) for raw in itertools.islice(lines, allowed)]
            if not chunk:
                break
            await asyncio.sleep(self._rules.line_s * len(chunk))
            answers = await asyncio.gather(*(self._answer(line.url, bytes(line.body)) for line in chunk))
            for line, (status, body) in zip(chunk, answers, strict=True):
                self._line_statuses[status] += 1
                response = {"status_code": status, "request_id": _id("req_"), "body": msgspec.Raw(body)}
                self._write(batch, line, response, None, output if status == 200 else errors)
            answered += len(chunk)
        unanswered = self._write_unanswered(batch, lines, errors)
        batch.finalizing_at = _now()
        batch.output_file_id = self._keep_result(batch, output, "output")
        batch.error_file_id = self._keep_result(batch, errors, "error")
        if batch.status == "cancelling":
            batch.status, batch.cancelled_at = "cancelled", _now()
        elif unanswered:
            batch.status, batch.expired_at = "expired", _now()
        else:
            batch.status, batch.completed_at = "completed", _now()

    async def _goes_on(self, batch: _Batch, answered: int) -> bool:
        """Wait as long as the rules hold the batch back; False once it is cancelled."""
        while batch.status != "cancelling":
            if answered < self._most_answered():
                return True
            await asyncio.sleep(_HELD_POLL_S)
        return False

    def _most_answered(self) -> float:
        if self._rules.held_by is not None:
            with contextlib.suppress(FileNotFoundError):
                return int(Path(self._rules.held_by).read_bytes())
        return math.inf

    def _write_unanswered(self, batch: _Batch, lines: Iterable[bytes], errors: IO[bytes]) -> int:
        if batch.status == "cancelling":
            error = {"code": "batch_cancelled", "message": "The batch was cancelled before this request was executed."}
        else:
            told = "This request could not be executed before the completion window expired."
            error = {"code": "batch_expired", "message": told}
        before = batch.request_counts.failed
        for raw in lines:
            self._write(batch, _decode_line(raw), None, error, errors)
        return batch.request_counts.failed - before

    def _write(
        self,
        batch: _Batch,
        line: _Line,
        response: dict[str, Any] | None,
        error: dict[str, str] | None,
        file: IO[bytes],
    ) -> None:
        if response is not None and response["status_code"] == 200:
            batch.request_counts.completed += 1
        else:
            batch.request_counts.failed += 1
        result = {"id": _id("batch_req_"), "custom_id": line.custom_id, "response": response, "error": error}
        file.write(encode(result) + b"\n")

    def _keep_result(self, batch: _Batch, handle: IO[bytes], kind: str) -> str | None:
        """Id of the file with the results in ``handle``, None if there are none."""
        handle.flush()
        size = handle.tell()
        if not size:
            return None
        return self._keep(_File(f"{batch.id}_{kind}.jsonl", "batch_output", handle, 0, size)).id


# --- Forms -----------------------------------------------------------------------------------------------------------


class _Creation(msgspec.Struct):
    input_file_id: str
    endpoint: str
    completion_window: Literal["24h"]
    metadata: dict[str, str] | None = None


class _Line(msgspec.Struct):
    custom_id: str
    method: Literal["POST"]
    url: str
    body: msgspec.Raw


class _Model(msgspec.Struct):
    model: str = ""


_decode_creation = msgspec.json.Decoder(_Creation).decode
_decode_line = msgspec.json.Decoder(_Line).decode
_decode_model = msgspec.json.Decoder(_Model).decode


class _Counts(msgspec.Struct):
    total: int = 0
    completed: int = 0
    failed: int = 0


class _Batch(msgspec.Struct, kw_only=True):
    id: str
    object: str = "batch"
    endpoint: str
    model: str | None = None
    errors: dict[str, Any] | None = None
    input_file_id: str
    completion_window: str
    status: str = "validating"
    output_file_id: str | None = None
    error_file_id: str | None = None
    created_at: int
    in_progress_at: int | None = None
    expires_at: int
    finalizing_at: int | None = None
    completed_at: int | None = None
    failed_at: int | None = None
    expired_at: int | None = None
    cancelling_at: int | None = None
    cancelled_at: int | None = None
    request_counts: _Counts = msgspec.field(default_factory=_Counts)
    metadata: dict[str, str] | None = None


class _File:
    """The bytes from ``start`` to ``end`` of a temporary file, which lives as long as somebody reads it."""

    def __init__(self, name: str, purpose: str, handle: IO[bytes], start: int, end: int) -> None:
        self.id = _id("file-")
        self.purpose = purpose
        self.size = end - start
        self._name = name
        self._created_at = _now()
        self._handle = handle
        self._start = start
        self._end = end

    def described(self) -> dict[str, Any]:
        return {
            "id": self.id,
            "object": "file",
            "bytes": self.size,
            "created_at": self._created_at,
            "filename": self._name,
            "purpose": self.purpose,
            "status": "processed",
        }

    async def blocks(self) -> AsyncIterator[bytes]:
        for block in self._blocks():
            yield block

    def lines(self) -> Iterator[bytes]:
        """Lines that are not empty."""
        rest = b""
        for block in self._blocks():
            *whole, rest = (rest + block).split(b"\n")
            yield from filter(bytes.strip, whole)
        if rest.strip():
            yield rest

    def _blocks(self) -> Iterator[bytes]:
        for position in range(self._start, self._end, _BLOCK_BYTES):
            yield os.pread(self._handle.fileno(), min(_BLOCK_BYTES, self._end - position), position)


@dataclass(frozen=True, slots=True)
class _Field:
    """One field of a form: bytes from ``start`` to ``end`` of the request's body; ``name`` is a file's."""

    name: str | None
    handle: IO[bytes]
    start: int
    end: int

    def text(self) -> str:
        return os.pread(self.handle.fileno(), min(self.end - self.start, 1 << 10), self.start).decode(errors="replace")


async def _form(request: Request) -> dict[str, _Field]:
    """The fields of a multipart form, left where they are in the body."""
    content_type = email.parser.HeaderParser(policy=email.policy.default).parsestr(
        f"Content-Type: {request.headers.get('content-type', '')}\n\n"
    )
    boundary = content_type.get_boundary()
    if content_type.get_content_type() != "multipart/form-data" or not boundary:
        raise Refused(400, "A file is uploaded as a form: Content-Type multipart/form-data.")
    handle = tempfile.TemporaryFile()  # noqa: SIM115 - kept by the file
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        if size > _MAX_UPLOAD_BYTES:
            raise Refused(413, f"A file has at most {_MAX_UPLOAD_BYTES:,} bytes.", code="request_too_large")
        handle.write(chunk)
    handle.flush()
    return dict(_fields(handle, size, b"--" + boundary.encode()))


def _fields(handle: IO[bytes], size: int, mark: bytes) -> Iterator[tuple[str, _Field]]:
    if not size:
        return
    with mmap.mmap(handle.fileno(), size, access=mmap.ACCESS_READ) as body:
        at = body.find(mark)
        while at >= 0 and body[at + len(mark) : at + len(mark) + 2] != b"--":
            head = at + len(mark) + len(b"\r\n")
            start = body.find(b"\r\n\r\n", head) + 4
            end = body.find(b"\r\n" + mark, start)
            if start < head or end < 0:
                raise Refused(400, "The form breaks off.")
            headers = email.parser.BytesHeaderParser(policy=email.policy.default).parsebytes(body[head:start])
            name = headers.get_param("name", header="content-disposition")
            yield str(name), _Field(headers.get_filename(), handle, start, end)
            at = end + len(b"\r\n")


_Found = TypeVar("_Found", _File, _Batch)


def _found(things: dict[str, _Found], request: Request, kind: str) -> _Found:
    identity = request.path_params["id"]
    if identity not in things:
        raise Refused(404, f"No such {kind} object: {identity}", param="id")
    return things[identity]


def _page(request: Request, rows: list[dict[str, Any]]) -> Response:
    """The part of a list that ``after`` and ``limit`` of the query ask for."""
    after, limit = request.query_params.get("after"), request.query_params.get("limit", "20")
    if not limit.isdecimal() or not 1 <= int(limit) <= 10_000:
        raise Refused(400, "'limit' must be a number from 1 to 10,000.", param="limit")
    start = next((place + 1 for place, row in enumerate(rows) if row["id"] == after), 0)
    data = rows[start : start + int(limit)]
    return json_response(
        {
            "object": "list",
            "data": data,
            "first_id": data[0]["id"] if data else None,
            "last_id": data[-1]["id"] if data else None,
            "has_more": start + len(data) < len(rows),
        }
    )


def _error(code: str, message: str, line: int | None = None) -> dict[str, Any]:
    return {"code": code, "message": message, "param": None, "line": line}


def _id(prefix: str) -> str:
    return prefix + uuid.uuid4().hex[:24]


def _now() -> int:
    return int(time.time())
