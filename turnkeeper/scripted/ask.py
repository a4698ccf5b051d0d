"""A request as both dialects mean it: the question, the limit, the input's tokens and the text to continue."""

import hashlib
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

import msgspec

MAX_MESSAGES: Final = 10_000
"""More than a client's own limit on its history; it bounds the work that one request can cause."""


class Dialect(StrEnum):
    """The API that a request speaks."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"


class AskError(ValueError):
    """A request that the imitated API would refuse with 400."""


@dataclass(frozen=True, slots=True)
class Ask:
    """One request for an answer.

    `prefix` is the beginning of the answer if the request already contains it (as a final message of the
    assistant); the answer continues it.
    """

    dialect: Dialect
    model: str
    messages: bytes
    system: str
    roles: tuple[str, ...]
    question: str
    prefix: str
    conversation: str
    input_tokens: int
    max_tokens: int | None
    stream: bool
    include_usage: bool
    running_usage: bool
    tools: bool
    fields: tuple[str, ...]


class _Part(msgspec.Struct):
    type: str = "text"
    text: str = ""


class _Message(msgspec.Struct):
    role: str
    content: str | list[_Part] | None = None

    def said(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class _StreamOptions(msgspec.Struct):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


class _Body(msgspec.Struct):
    model: str
    messages: msgspec.Raw
    stream: bool | None = None
    max_tokens: int | None = None
    max_completion_tokens: int | None = None
    system: str | list[_Part] | None = None
    stream_options: _StreamOptions | None = None
    continue_final_message: bool | None = None
    add_generation_prompt: bool | None = None


_decode_body: Final = msgspec.json.Decoder(_Body).decode
_decode_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_decode_messages: Final = msgspec.json.Decoder(list[_Message]).decode
_ROLES: Final = {
    Dialect.OPENAI: frozenset({"system", "developer", "user", "assistant", "tool"}),
    Dialect.ANTHROPIC: frozenset({"user", "assistant"}),
}


def read_ask(dialect: Dialect, body: bytes) -> Ask:
    """Read a request's body.

    Raises:
        AskError: It is not JSON, or lacks or misuses a field that this dialect requires.
    """
    try:
        read = _decode_body(body)
        raw_messages = bytes(read.messages)
        messages = _decode_messages(raw_messages)
        fields = _decode_fields(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise AskError(f"the body cannot be read: {error}") from error
    _check(dialect, read, messages)
    questions = [position for position, message in enumerate(messages) if message.role == "user"]
    asked = questions[-1] if questions else -1
    last = messages[-1]
    continues = last.role == "assistant" and (
        dialect is Dialect.ANTHROPIC or bool(read.continue_final_message)
    )
    system = _Message("system", read.system).said()
    return Ask(
        dialect=dialect,
        model=read.model,
        messages=raw_messages,
        system=system,
        roles=tuple(message.role for message in messages),
        question=messages[asked].said() if questions else "",
        prefix=last.said() if continues else "",
        conversation=_conversation(system, messages[: asked + 1]),
        input_tokens=_count(system, messages),
        max_tokens=read.max_completion_tokens or read.max_tokens,
        stream=bool(read.stream),
        include_usage=bool(read.stream_options and read.stream_options.include_usage),
        running_usage=bool(read.stream_options and read.stream_options.continuous_usage_stats),
        tools=bool(fields.get("tools")),
        fields=tuple(sorted(fields)),
    )


def _check(dialect: Dialect, read: _Body, messages: list[_Message]) -> None:
    if not messages:
        raise AskError("messages: at least one message is required")
    if len(messages) > MAX_MESSAGES:
        raise AskError(f"messages: at most {MAX_MESSAGES} are taken")
    for position, message in enumerate(messages):
        if message.role not in _ROLES[dialect]:
            raise AskError(f"messages.{position}: unexpected role {message.role!r}")
        if dialect is Dialect.ANTHROPIC and not message.content:
            raise AskError(f"messages.{position}: content must not be empty")
    if dialect is Dialect.ANTHROPIC and read.max_tokens is None:
        raise AskError("max_tokens: field required")
    if (
        dialect is Dialect.ANTHROPIC
        and messages[-1].role == "assistant"
        and messages[-1].said()[-1:].isspace()
    ):
        raise AskError("messages: final assistant content cannot end with trailing whitespace")
    for limit in (read.max_tokens, read.max_completion_tokens):
        if limit is not None and limit < 1:
            raise AskError("max_tokens: must be at least 1")
    if read.continue_final_message and read.add_generation_prompt:
        raise AskError("continue_final_message and add_generation_prompt exclude each other")


def _conversation(system: str, messages: list[_Message]) -> str:
    digest = hashlib.sha256(system.encode())
    for message in messages:
        digest.update(f"\0{message.role}\0{message.said()}".encode())
    return digest.hexdigest()[:16]


def _count(system: str, messages: list[_Message]) -> int:
    """Count input tokens by words, deliberately unlike the estimate of a client that receives no usage."""
    total = len(system.split()) + 3
    return total + sum(len(message.said().split()) + 4 for message in messages)


def roles_alternate(roles: tuple[str, ...]) -> bool:
    """Return whether, after system messages, the roles alternate, beginning with a user."""
    talk = [role for role in roles if role not in {"system", "developer"}]
    return all(role == ("user", "assistant")[position % 2] for position, role in enumerate(talk))
