# ruff: noqa: RUF009  # `_directive` is `dataclasses.field` with the table's columns
"""Everything that a script can direct, as one table: a directive's name, type, default, group, bounds and meaning.

The parser, the help text and the reset of faults are derived from the fields of `Script`. Counts of tokens
include reasoning. A fault that is to come after more tokens than the answer has comes at its end, so that
none is lost silently.
"""

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, TypeVar

_T = TypeVar("_T")


class UsageMode(StrEnum):
    """How truthfully the answer's usage is reported."""

    FULL = "full"
    NONE = "none"
    DUPLICATE = "duplicate"
    DECREASING = "decreasing"
    NEGATIVE = "negative"
    HUGE = "huge"
    INFLATED = "inflated"
    WITH_FINISH = "with_finish"
    AFTER_FINISH = "after_finish"
    CONTINUOUS = "continuous"


class Finish(StrEnum):
    """Why the answer ends, in OpenAI's terms."""

    STOP = "stop"
    LENGTH = "length"
    CONTENT_FILTER = "content_filter"
    REFUSAL = "refusal"
    TOOL_CALLS = "tool_calls"


class Newline(StrEnum):
    """The line end of the event stream."""

    LF = "lf"
    CRLF = "crlf"
    CR = "cr"


class Gzip(StrEnum):
    """Whether the body is compressed although the client did not ask for it."""

    OFF = "0"
    ON = "1"
    BOMB = "bomb"


class ContextWords(StrEnum):
    """Whose words refuse a prompt that is too long."""

    OPENAI = "openai"
    VLLM = "vllm"
    LLAMA_CPP = "llama.cpp"
    ANTHROPIC = "anthropic"
    SILENT = "silent"


class Group(StrEnum):
    """What a directive is about; a healed script keeps everything except its faults."""

    ANSWER = "answer"
    PACE = "pace"
    USAGE = "usage"
    SHAPE = "shape of the stream"
    FAULT = "fault"
    REPEAT = "repetition"


def _directive(
    default: _T, group: Group, meaning: str, *, least: float | None = None, most: float | None = None
) -> _T:
    field: _T = dataclasses.field(
        default=default, metadata={"group": group, "meaning": meaning, "least": least, "most": most}
    )
    return field


@dataclass(frozen=True, slots=True, kw_only=True)
class Script:
    """One answer's directions; durations in seconds."""

    tokens: int | None = _directive(
        None, Group.ANSWER, "length of the answer in tokens, a word each", least=0, most=10_000_000
    )
    text: str | None = _directive(None, Group.ANSWER, "the answer, literally")
    reasoning: int = _directive(
        0, Group.ANSWER, "tokens of thinking before the answer", least=0, most=10_000_000
    )
    finish: Finish | None = _directive(
        None, Group.ANSWER, "the finish reason; by default what really happened"
    )
    seed: int | None = _directive(None, Group.ANSWER, "which words; by default given by the conversation")
    pad: int = _directive(
        0, Group.ANSWER, "least bytes of a delta, filled up with dots", least=0, most=1_000_000
    )
    chunk: int = _directive(1, Group.ANSWER, "tokens in a delta", least=1, most=100_000)
    stamp: bool = _directive(False, Group.ANSWER, "each delta begins with its send time: `⟦monotonic ns⟧`")
    progress: bool = _directive(
        False, Group.ANSWER, "the record says when each delta had been written, and how many tokens by then"
    )
    empty: bool = _directive(False, Group.ANSWER, "no text at all, then a clean end")
    tool_call: bool = _directive(False, Group.ANSWER, "a tool call after the text")
    empty_tool_calls: bool = _directive(
        False, Group.ANSWER, '`"tool_calls": []` in each delta, which is no tool call (OpenAI)'
    )
    split_surrogates: bool = _directive(False, Group.ANSWER, "an emoji as two escaped halves in two deltas")
    lone_surrogate: bool = _directive(False, Group.ANSWER, "half an emoji, escaped, in a delta of its own")
    nul: bool = _directive(False, Group.ANSWER, "a `\\u0000` in a delta")
    u2028: bool = _directive(False, Group.ANSWER, "raw U+2028, U+2029 and U+0085 in a delta")
    bad_utf8: bool = _directive(False, Group.ANSWER, "bytes that are not UTF-8 in a delta")

    delay: float = _directive(0.0, Group.PACE, "before the response's headers", least=0, most=3600)
    first: float = _directive(0.0, Group.PACE, "from the headers to the first token", least=0, most=3600)
    rate: float = _directive(
        0.0, Group.PACE, "tokens a second; 0 is as fast as the client reads", least=0, most=1_000_000
    )
    jitter: float = _directive(0.0, Group.PACE, "each gap varies by up to this share of it", least=0, most=1)
    comments: float = _directive(
        0.0, Group.PACE, "a comment line each so many seconds, also while silent", least=0, most=3600
    )
    pings: float = _directive(
        0.0, Group.PACE, "a ping each so many seconds; a comment with OpenAI", least=0, most=3600
    )

    usage: UsageMode = _directive(UsageMode.FULL, Group.USAGE, "how truthfully usage is told")
    input: int | None = _directive(
        None, Group.USAGE, "input tokens; by default counted", least=0, most=1_000_000_000
    )
    cached: int = _directive(
        0, Group.USAGE, "input tokens read from a cache, besides the input", least=0, most=1_000_000_000
    )
    cache_write: int = _directive(
        0, Group.USAGE, "input tokens written to a 5 minute cache (Anthropic)", least=0, most=1_000_000_000
    )
    cache_write_1h: int = _directive(
        0, Group.USAGE, "input tokens written to a 1 hour cache (Anthropic)", least=0, most=1_000_000_000
    )
    ignore_max: bool = _directive(False, Group.USAGE, "the request's limit of tokens is ignored")

    newline: Newline = _directive(Newline.LF, Group.SHAPE, "line ends of the event stream")
    bom: bool = _directive(False, Group.SHAPE, "a byte order mark first")
    multiline: bool = _directive(False, Group.SHAPE, "each event's JSON on two `data:` lines")
    drip: int = _directive(0, Group.SHAPE, "bytes in a write to the socket", least=0, most=65_536)
    http_chunk: int = _directive(0, Group.SHAPE, "bytes of body in an HTTP chunk", least=0, most=65_536)
    no_final_blank: int = _directive(0, Group.SHAPE, "line ends that the last event lacks", least=0, most=2)
    after_done: bool = _directive(False, Group.SHAPE, "more text after the terminal mark")

    status: int | None = _directive(
        None, Group.FAULT, "an HTTP error instead of an answer", least=400, most=599
    )
    retry_after: float | None = _directive(
        None, Group.FAULT, "the error's `Retry-After`", least=0, most=86_400
    )
    retry_date: bool = _directive(False, Group.FAULT, "`Retry-After` as a date")
    error_type: str | None = _directive(None, Group.FAULT, "the type that an error names")
    error_code: str | None = _directive(None, Group.FAULT, "the code that an error names (OpenAI)")
    error_after: int | None = _directive(None, Group.FAULT, "an in-band error after so many tokens", least=0)
    hang_headers: bool = _directive(False, Group.FAULT, "no response at all")
    hang: int | None = _directive(None, Group.FAULT, "silence after so many tokens", least=0)
    cut: int | None = _directive(None, Group.FAULT, "a TCP reset after so many tokens", least=0)
    eof: int | None = _directive(
        None, Group.FAULT, "a body that ends well, without the terminal mark, after so many tokens", least=0
    )
    fin: int | None = _directive(
        None, Group.FAULT, "a connection closed inside the body after so many tokens", least=0
    )
    garbage: int | None = _directive(
        None, Group.FAULT, "half an object as an event after so many tokens", least=0
    )
    html: bool = _directive(False, Group.FAULT, "200 with a page of HTML")
    json: bool = _directive(False, Group.FAULT, "200 with an error as plain JSON")
    redirect: str | None = _directive(None, Group.FAULT, "302 to this URL")
    gzip: Gzip = _directive(Gzip.OFF, Group.FAULT, "a gzip body; `bomb` unpacks to 64 MiB")
    huge_line: int = _directive(
        0, Group.FAULT, "one line of so many bytes after the first token", least=0, most=2**40
    )
    endless: bool = _directive(False, Group.FAULT, "ignores the limit of tokens and never ends")
    no_done: bool = _directive(False, Group.FAULT, "a finish reason, but no terminal mark")
    no_reason: bool = _directive(False, Group.FAULT, "a terminal mark, but no finish reason")
    torn: bool = _directive(
        False, Group.FAULT, "a connection closed inside the body after the last event, the terminal mark"
    )
    refuse: str | None = _directive(None, Group.FAULT, "400 for a request that has this field")
    second_start: bool = _directive(False, Group.FAULT, "the message starts again after the first token")
    strict_roles: bool = _directive(
        False, Group.FAULT, "400 unless user and assistant take turns, as some chat templates want"
    )
    context: int | None = _directive(
        None, Group.FAULT, "400 if input and limit have more tokens than this together", least=1
    )
    context_words: ContextWords | None = _directive(
        None,
        Group.FAULT,
        "the server in whose words; by default that of the dialect, `silent` names no figures. As a default script, "
        "`vllm` tells the context at `/v1/models` and `llama.cpp` at `/props`",
    )
    refuses: str | None = _directive(
        None, Group.FAULT, "400 of a content filter if any message contains this text"
    )

    fail_times: int | None = _directive(
        None,
        Group.REPEAT,
        "only the first so many requests of this conversation and script get the faults",
        least=0,
    )
    key: str | None = _directive(
        None, Group.REPEAT, "the conversation's key; by default the hash of its messages up to the question"
    )

    def healed(self) -> "Script":
        """Return this script without its faults."""
        faults = (field for field in dataclasses.fields(self) if field.metadata["group"] is Group.FAULT)
        defaults: dict[str, Any] = {field.name: field.default for field in faults}
        return dataclasses.replace(self, **defaults)

    def is_no_answer(self) -> bool:
        """Return whether a 200 would be anything other than an answer."""
        return self.html or self.json or self.gzip is Gzip.BOMB
