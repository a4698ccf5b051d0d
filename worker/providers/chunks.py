"""Reads the events of a chat completion, in two ways: the ordinary delta by type, everything else field by field.

Nearly every event is one delta with a piece of text, and its decoder refuses all others. They take the slower way,
which looks only at what it needs: a wrong type elsewhere costs no answer, and where the text or the end depends on it,
the event cannot be read.
"""

import re
from typing import Any, Final, Literal

import msgspec

from shared.money.usage import Usage
from shared.oddities import Oddity
from shared.turn.turns import FinishReason
from worker.providers.content import PartKind, is_call, pieces_of, text_in, thought_in
from worker.providers.decoding import UNDECODABLE, decode_any
from worker.providers.ends import Cut, End, end_of, is_whitewashed
from worker.providers.faults import NO_ERRORS, NO_NAMES, ErrorNames, error_in_stream
from worker.providers.figures import figures_of, usages_in
from worker.providers.oddities import Oddities
from worker.providers.provider import UsageConflict
from worker.providers.reading import MARKS, MOST_TOKENS, Reading, gave_up, tool_call, unreadable

_THOUGHTS: Final = (
    "reasoning_content",  # DeepSeek, vLLM, llama.cpp, LiteLLM
    "reasoning",  # OpenRouter, Groq, Ollama, newer vLLM
    "thinking",
    "reasoning_text",
    "thinking_content",
    "thought",
    "thoughts",
    "reasoning_details",  # OpenRouter, beside `reasoning`
    "thinking_blocks",  # LiteLLM, beside `reasoning_content`
    "reasoning_summary",
)
"""Where thinking may stand, the plainest first: gateways repeat it, so only the first that has any is read."""
_THOUGHT: Final = re.compile(r"think|thought|reasoning|(^|_)cot($|_)")
_NO_THOUGHT: Final = re.compile(r"signature|token|effort|format|type|(^|_)id($|_)")
"""Names that nobody has seen yet; those about thinking that hold none."""
_CALLS: Final = ("tool_calls", "function_call", "tool_call")
_PLAIN: Final = 3
"""How many figures a usage without details has."""
_NO_REASONS: Final = frozenset({"", "null", "none"})
"""Before its end, Alibaba's server sends the word `null`."""


class _Delta(msgspec.Struct, gc=False):
    content: str | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    # An ordinary delta has none of these; `None` is their whole type.
    refusal: None = None
    tool_calls: tuple[()] | None = None
    function_call: None = None
    thinking: None = None
    # These repeat the thinking where it stands in one of the first two, and are read only where it does not.
    reasoning_details: Any = None
    thinking_blocks: Any = None


class _Choice(msgspec.Struct, gc=False):
    delta: _Delta
    usage: None = None
    error: None = None
    finish_reason: Literal["", None] = None  # noqa: RUF100, PYI061 -- msgspec's way to allow an empty text


class _Ordinary(msgspec.Struct, gc=False):
    """A chunk with one delta and nothing else that matters, except perhaps its usage."""

    choices: tuple[_Choice]
    usage: Any = None
    error: None = None
    x_groq: None = None


_decode: Final = msgspec.json.Decoder(_Ordinary).decode


class ChunkReader:
    """Reads chat completion chunks into a `Reading`.

    Args:
        reading: Receives the answer.
        names: How the server names errors.
        oddities: Counts what is not as the protocol has it.
        expects_usage: Usage was asked for, so a response without it is not known to be whole.
    """

    __slots__ = (
        "_cached",
        "_conflict",
        "_end",
        "_error_names",
        "_expects_usage",
        "_is_marked",
        "_oddities",
        "_output",
        "_prompt",
        "_reading",
        "_reason",
        "_reasoning",
        "_refused",
        "_summary",
        "_written",
    )

    def __init__(
        self,
        reading: Reading,
        names: ErrorNames = NO_NAMES,
        oddities: Oddities | None = None,
        *,
        expects_usage: bool = True,
    ) -> None:
        self._reading = reading
        self._error_names = names
        self._oddities = oddities or Oddities()
        self._expects_usage = expects_usage
        self._reason: str | None = None
        self._end: End | None = None
        self._refused = False
        self._is_marked = False
        self._summary = ""
        # The largest valid figures so far: what is reported is cumulative.
        self._prompt = self._cached = self._written = self._output = self._reasoning = 0
        self._conflict: UsageConflict | None = None

    def feed(self, name: str, data: bytes) -> None:
        """Read one event.

        Raises:
            ProviderError: It is an error or a tool call, or cannot be read.
        """
        if name or self._is_marked:
            self._read_any(name, data)
            return
        try:
            chunk = _decode(data)
        except UNDECODABLE:
            self._read_any(name, data)
            return
        delta = chunk.choices[0].delta
        thought = delta.reasoning_content or delta.reasoning
        if not thought and (not delta.content or delta.reasoning_details or delta.thinking_blocks):
            self._read_any(name, data)  # what it says, or says besides, stands elsewhere
            return
        reading = self._reading
        if chunk.usage is not None:
            self._count(chunk.usage)
        if not reading.is_begun:
            reading.begin()
        if thought:
            reading.think(thought)
        if delta.content:
            reading.say(delta.content)

    def end(self, *, is_clean: bool) -> None:
        """Finish the reading if nothing of the answer is missing, now that no event follows."""
        if self._reading.is_finished:
            return
        if self._is_marked:
            if is_clean or self._has_reason():
                self._finish()
        elif is_clean and self._has_reason() and (self._has_usage() or not self._expects_usage):
            self._oddities.note(Oddity.NO_MARK)
            self._finish()

    # Anything but an ordinary delta.

    def _read_any(self, name: str, data: bytes) -> None:
        data = data.strip()
        if data in MARKS:
            self._mark()
        elif not data:
            self._oddities.note(Oddity.NO_OBJECT)
        elif name != "ping":
            self._read_json(name, data)

    def _read_json(self, name: str, data: bytes) -> None:
        try:
            value = decode_any(data)
        except ValueError as exc:
            if name == "error":
                raise error_in_stream(None, self._error_names, self._reading.hush) from exc
            if self._is_marked or name not in {"", "message"}:
                self._oddities.note(Oddity.NO_OBJECT, name)
                return
            raise unreadable() from exc
        for chunk in value if isinstance(value, list) and value else (value,):
            if isinstance(chunk, dict):
                self._read_chunk(name, chunk)
            else:
                self._oddities.note(Oddity.NO_OBJECT)

    def _read_chunk(self, name: str, chunk: dict[str, Any]) -> None:
        for usage in usages_in(chunk):
            self._count(usage)
        self._refuse_error(name, chunk)
        choices = chunk.get("choices")
        if isinstance(choices, dict):
            self._oddities.note(Oddity.WRONG_TYPE, "choices")
            choices = [choices]
        if not choices:
            return
        if not isinstance(choices, list):
            raise unreadable()
        index: str | None = None
        for choice in choices:
            if choice is None:
                continue
            # One was asked for, so an index says nothing from event to event, and within one that there is another.
            index = index or _index(choice)
            if _index(choice) in {None, index}:
                self._read_choice(choice)
            else:
                self._oddities.note(Oddity.OTHER_CHOICE)

    def _refuse_error(self, name: str, chunk: dict[str, Any]) -> None:
        error = chunk.get("error")
        if error in NO_ERRORS:
            is_error = name == "error" or chunk.get("object") == "error" or chunk.get("type") == "error"
            error = chunk if is_error else None
        if error is not None and not (self._is_marked and self._has_reason()):
            raise error_in_stream(error, self._error_names, self._reading.hush)

    def _read_choice(self, choice: Any) -> None:
        if not isinstance(choice, dict):
            raise unreadable()
        if choice.get("error") not in NO_ERRORS and not self._is_marked:
            raise error_in_stream(choice["error"], self._error_names, self._reading.hush)
        if not self._is_marked:
            self._reading.begin()
            delta = choice.get("delta")
            if isinstance(delta, dict):
                self._read_delta(delta)
                self._read_reason(delta.get("finish_reason"))
            elif delta:
                raise unreadable()  # its text is in there
            elif isinstance(text := choice.get("text"), str):
                self._reading.say(text)  # as in the older completions
            message = choice.get("message")
            if isinstance(message, dict):
                self._summary = text_in(message.get("content")) or self._summary
        self._read_reason(choice.get("finish_reason"))

    def _read_delta(self, delta: dict[str, Any]) -> None:
        if any(is_call(delta.get(field)) for field in _CALLS):
            raise tool_call()
        has_thought = self._read_thought(delta)
        try:
            for kind, text in pieces_of(delta.get("content")):
                self._read_piece(kind, text, has_thought=has_thought)
        except ValueError as exc:
            raise unreadable() from exc
        if refusal := delta.get("refusal"):
            self._refused = True
            if isinstance(refusal, str):
                self._reading.say(refusal)

    def _read_thought(self, delta: dict[str, Any]) -> bool:
        is_there = False
        others = (name for name in delta if _THOUGHT.search(name) and not _NO_THOUGHT.search(name))
        for field in (*_THOUGHTS, *others):
            value = delta.get(field)
            if not value:
                continue
            is_there = True
            if thought := thought_in(value):
                self._reading.think(thought)
                return True
        if is_there:
            self._reading.stir()  # thinking that is hidden, or of a form that is not known
        return False

    def _read_piece(self, kind: PartKind, text: str, *, has_thought: bool) -> None:
        match kind:
            case PartKind.TEXT:
                self._reading.say(text)
            case PartKind.THOUGHT if not has_thought:
                self._reading.think(text)
            case PartKind.REFUSAL:
                self._refused = True
                self._reading.say(text)
            case PartKind.CALL:
                raise tool_call()
            case PartKind.HIDDEN:
                self._reading.stir()
            case PartKind.UNKNOWN:
                self._oddities.note(Oddity.UNKNOWN_PART, text)
            case _:
                pass  # thinking that the delta has told already

    # The end.

    def _read_reason(self, reason: Any) -> None:
        if isinstance(reason, dict):
            reason = reason.get("type") or reason.get("reason")
        if not reason or (isinstance(reason, str) and reason.strip().lower() in _NO_REASONS):
            return
        word = reason if isinstance(reason, str) else ""
        end = end_of(word)
        if is_whitewashed(self._end, end):
            return
        self._reason, self._end = word, end
        if self._is_marked:
            return
        if self._end is Cut.TOOL_CALL:
            raise tool_call()
        if self._end is Cut.BROKEN:
            raise gave_up()

    def _mark(self) -> None:
        """Finish with the terminal mark, unless something is missing that may come after it."""
        self._is_marked = True
        if self._has_reason() and (self._has_usage() or not self._expects_usage):
            self._finish()
        else:
            self._reading.is_marked = True

    def _finish(self) -> None:
        reading = self._reading
        reading.close()
        if self._summary and not reading.has_content():
            reading.say(self._summary)  # a server that sends no deltas, and its answer whole
        if self._conflict is not None:
            self._oddities.note(Oddity.USAGE_CONFLICT)
        usage = self._usage() if self._has_usage() else None
        reading.finish(self._finish_reason(), usage, None if usage is None else self._conflict)

    def _finish_reason(self) -> FinishReason:
        if self._refused:
            return FinishReason.REFUSAL
        if isinstance(self._end, FinishReason):
            return self._end
        if self._reason is None:
            self._oddities.note(Oddity.NO_REASON)
        else:
            self._oddities.note(Oddity.UNKNOWN_END, self._reason)
        return FinishReason.UNKNOWN

    def _has_reason(self) -> bool:
        return self._reason is not None or self._refused

    # Usage.

    def _count(self, usage: Any) -> None:
        if not isinstance(usage, dict):
            self._oddities.note(Oddity.WRONG_TYPE, "usage")
            return
        prompt, output = usage.get("prompt_tokens"), usage.get("completion_tokens")
        if (
            len(usage) == _PLAIN
            and type(prompt) is type(output) is int
            and self._prompt <= prompt <= MOST_TOKENS
            and self._output <= output <= MOST_TOKENS
            and usage.get("total_tokens") == prompt + output
        ):
            # The ordinary one, perhaps with every delta.
            self._prompt, self._output, self._conflict = prompt, output, None
            self._reading.use(self._usage())
            return
        figures = figures_of(usage)
        self._prompt = max(self._prompt, figures.prompt)
        self._cached = max(self._cached, figures.cached)
        self._written = max(self._written, figures.written)
        self._output = max(self._output, figures.output)
        self._reasoning = max(self._reasoning, figures.reasoning)
        if figures.prompt or figures.output:
            self._conflict = figures.conflict
        if self._prompt or self._output:
            self._reading.use(self._usage())

    def _usage(self) -> Usage:
        cached = min(self._cached, self._prompt)  # prompt tokens include the cached ones
        written = min(self._written, self._prompt - cached)
        return Usage(
            input_tokens=self._prompt - cached - written,
            cache_read_tokens=cached,
            cache_write_tokens=written,
            output_tokens=self._output,
            reasoning_tokens=min(self._reasoning, self._output),
        )

    def _has_usage(self) -> bool:
        """Return whether there are figures that count something where there was text: an answer is never free.

        One that cannot be is told as a running figure, which is disputed, and never as the final one.
        """
        if max(self._prompt, self._output) >= MOST_TOKENS:
            return False
        return self._prompt > 0 and (self._output > 0 or not self._reading.is_spoken)


def _index(choice: Any) -> str | None:
    index = choice.get("index") if isinstance(choice, dict) else None
    return str(index) if isinstance(index, int | str) else None
