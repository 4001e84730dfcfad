"""The forms in which the built-in server is asked and answers: chat completions, responses, errors, event streams.

They are OpenAI's (https://platform.openai.com/docs/api-reference/chat and …/responses). Both protocols ask for the
same thing, so both are read into a `ChatRequest`, and an `Answer` can be written in either form.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from typing import Annotated, Any, TypeVar

import msgspec
from starlette.responses import Response

__all__ = [
    "PROTOCOLS",
    "Answer",
    "ChatRequest",
    "Protocol",
    "Refused",
    "Text",
    "chat_events",
    "cut",
    "decode",
    "encode",
    "json_response",
    "tokens",
]

_CHARACTERS_PER_TOKEN = 4
_TOKENS_PER_MESSAGE = 4

_T = TypeVar("_T")

encode = msgspec.json.Encoder().encode


# --- What a request says -------------------------------------------------------------------------------------------


class _Part(msgspec.Struct):
    type: str
    text: str = ""


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class _StreamOptions(msgspec.Struct):
    include_usage: bool = False


_Messages = Annotated[list[_Message], msgspec.Meta(min_length=1)]
_Temperature = Annotated[float, msgspec.Meta(ge=0, le=2)] | None
_Limit = Annotated[int, msgspec.Meta(ge=1)] | None


class ChatRequest(msgspec.Struct):
    """The body of a chat completion's request."""

    model: str
    messages: _Messages
    n: Annotated[int, msgspec.Meta(ge=1, le=128)] | None = None
    seed: int | None = None
    temperature: _Temperature = None
    max_tokens: _Limit = None
    max_completion_tokens: _Limit = None
    stream: bool | None = None
    stream_options: _StreamOptions | None = None

    @property
    def limit(self) -> int | None:
        """Most tokens in a text, None for any number."""
        return min(
            (limit for limit in (self.max_tokens, self.max_completion_tokens) if limit is not None), default=None
        )

    @property
    def tokens(self) -> int:
        """Tokens of the messages."""
        return sum(tokens(message.text) + _TOKENS_PER_MESSAGE for message in self.messages)

    @property
    def user_texts(self) -> list[str]:
        """The user messages; the last one asks, those before it are demonstrations."""
        return [message.text for message in self.messages if message.role == "user"]

    def digest(self) -> bytes:
        """Of whatever decides about the text."""
        content = encode((self.messages, self.seed, self.temperature))
        return hashlib.blake2b(content, digest_size=16).digest()


class _ResponsesRequest(msgspec.Struct):
    model: str
    input: str | _Messages
    instructions: str | None = None
    temperature: _Temperature = None
    max_output_tokens: _Limit = None
    stream: bool | None = None


_decode_chat = msgspec.json.Decoder(ChatRequest).decode
_decode_responses = msgspec.json.Decoder(_ResponsesRequest).decode


def decode(decoder: Callable[[bytes], _T], body: bytes) -> _T:
    """The decoded body of a request.

    Raises:
        Refused: it is malformed.
    """
    try:
        return decoder(body)
    except msgspec.ValidationError as error:
        reason, _, path = str(error).partition(" - at `$")
        raise Refused(400, f"Invalid request: {reason}.", param=path.strip(".`") or None) from None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Refused(400, f"The body of the request is not valid JSON: {error}.") from None


def _parse_chat(body: bytes) -> ChatRequest:
    return decode(_decode_chat, body)


def _parse_responses(body: bytes) -> ChatRequest:
    asked = decode(_decode_responses, body)
    if asked.stream:
        raise Refused(400, "This server does not stream responses; leave out 'stream'.", param="stream")
    messages = [_Message("user", asked.input)] if isinstance(asked.input, str) else asked.input
    if asked.instructions:
        messages = [_Message("system", asked.instructions), *messages]
    return ChatRequest(
        asked.model, messages, temperature=asked.temperature, max_completion_tokens=asked.max_output_tokens
    )


# --- What is answered ----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Text:
    """One text, and whether it was cut off."""

    text: str
    is_cut: bool


@dataclass(frozen=True, slots=True)
class Answer:
    """The texts that a request gets."""

    request: ChatRequest
    id: str
    fingerprint: str
    texts: list[Text]

    @property
    def output_tokens(self) -> int:
        return sum(tokens(text.text) for text in self.texts)


def _chat_head(answer: Answer, kind: str) -> dict[str, Any]:
    return {
        "id": f"chatcmpl-{answer.id}",
        "object": kind,
        "created": int(time.time()),
        "model": answer.request.model,
        "system_fingerprint": answer.fingerprint,
    }


def _chat_usage(answer: Answer) -> dict[str, Any]:
    return {
        "prompt_tokens": answer.request.tokens,
        "completion_tokens": answer.output_tokens,
        "total_tokens": answer.request.tokens + answer.output_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def _chat_body(answer: Answer) -> dict[str, Any]:
    choices = [
        {
            "index": index,
            "message": {"role": "assistant", "content": text.text, "refusal": None},
            "logprobs": None,
            "finish_reason": _finish_reason(text),
        }
        for index, text in enumerate(answer.texts)
    ]
    return _chat_head(answer, "chat.completion") | {"choices": choices, "usage": _chat_usage(answer)}


def _responses_body(answer: Answer) -> dict[str, Any]:
    (text,) = answer.texts
    status = "incomplete" if text.is_cut else "completed"
    part = {"type": "output_text", "text": text.text, "annotations": [], "logprobs": []}
    return {
        "id": f"resp_{answer.id}",
        "object": "response",
        "created_at": int(time.time()),
        "status": status,
        "error": None,
        "incomplete_details": {"reason": "max_output_tokens"} if text.is_cut else None,
        "instructions": None,
        "max_output_tokens": answer.request.limit,
        "model": answer.request.model,
        "output": [
            {"type": "message", "id": f"msg_{answer.id}", "status": status, "role": "assistant", "content": [part]}
        ],
        "parallel_tool_calls": True,
        "previous_response_id": None,
        "store": False,
        "temperature": answer.request.temperature,
        "tool_choice": "auto",
        "tools": [],
        "top_p": 1.0,
        "usage": {
            "input_tokens": answer.request.tokens,
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": answer.output_tokens,
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": answer.request.tokens + answer.output_tokens,
        },
        "metadata": {},
    }


@dataclass(frozen=True, slots=True)
class Protocol:
    """One way to ask: how a request's body is read, and an answer written."""

    parse: Callable[[bytes], ChatRequest]
    body: Callable[[Answer], dict[str, Any]]


PROTOCOLS = {
    "/v1/chat/completions": Protocol(_parse_chat, _chat_body),
    "/v1/responses": Protocol(_parse_responses, _responses_body),
}


async def chat_events(answer: Answer) -> AsyncIterator[bytes]:
    """A completion as server-sent events: role, pieces of text, finish reason; usage if asked for; the end mark."""
    head = _chat_head(answer, "chat.completion.chunk")
    for index, text in enumerate(answer.texts):
        for delta, reason in _deltas(text):
            chunk = {"index": index, "delta": delta, "logprobs": None, "finish_reason": reason}
            yield _event(head | {"choices": [chunk]})
    options = answer.request.stream_options
    if options is not None and options.include_usage:
        yield _event(head | {"choices": [], "usage": _chat_usage(answer)})
    yield b"data: [DONE]\n\n"


def _deltas(text: Text) -> Iterator[tuple[dict[str, str], str | None]]:
    step = 4 * _CHARACTERS_PER_TOKEN
    yield {"role": "assistant", "content": ""}, None
    for start in range(0, len(text.text), step):
        yield {"content": text.text[start : start + step]}, None
    yield {}, _finish_reason(text)


def _event(data: dict[str, Any]) -> bytes:
    return b"data: " + encode(data) + b"\n\n"


def _finish_reason(text: Text) -> str:
    return "length" if text.is_cut else "stop"


def tokens(text: str) -> int:
    """What ``text`` is billed as: a token is four characters."""
    return -(-len(text) // _CHARACTERS_PER_TOKEN)


def cut(text: str, limit: int) -> str:
    """The first ``limit`` tokens of ``text``."""
    return text[: limit * _CHARACTERS_PER_TOKEN]


class Refused(Exception):  # noqa: N818 - an answer, not a failure of this program
    """An error response in OpenAI's form."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.body = {"error": {"message": message, "type": kind, "param": param, "code": code}}
        self.headers = headers

    def response(self) -> Response:
        return Response(encode(self.body), self.status, self.headers, media_type="application/json")


def json_response(data: Any) -> Response:
    return Response(encode(data), media_type="application/json")
