"""Builds the prompt that is sent to a provider from a session's settled messages.

Stopped and failed turns leave questions without answers, and chat templates refuse two user messages
in a row. These are joined, so that no text is lost. When the context is full, the oldest whole turns
are left out, so many at once that the beginning of the prompt then stands for many turns.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Final

from shared.errors import Fault, TurnkeeperError
from shared.money.usage import estimate_tokens
from shared.turn.parts import Parts, join_parts, text_of
from shared.turn.turns import Role
from worker.providers.provider import Prompt, PromptMessage

TOKENS_PER_MESSAGE: Final = 4
"""What a chat template adds around each message, according to OpenAI's guide to counting tokens."""
_STEPS: Final = 4
"""In how many steps a full context is given to newer turns: a prompt's beginning stands for a quarter of it."""
_LEAST_ANSWER_SHARE: Final = 8
"""The part of the context that an answer has at least, if it asked for that much."""


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A message as the database stores it; `role` may be one that this provider does not accept."""

    turn_number: int
    role: str
    parts: Parts

    @property
    def content(self) -> str:
        """The text of its parts."""
        return text_of(self.parts)


class PromptRefusedError(TurnkeeperError):
    """The history cannot be sent to this provider; nothing was called."""

    def __init__(self, fault: Fault, detail: str) -> None:
        super().__init__(detail)
        self.fault = fault
        self.detail = detail


@dataclass(frozen=True, slots=True)
class Fit:
    """What of a history a prompt has.

    Args:
        first: The oldest turn that it has, as an index.
        earlier_tokens: The turns that it has before the question.
        needed_tokens: What cannot be left out: system prompt and question.
        answer_tokens: What is kept free for the answer.
    """

    first: int
    earlier_tokens: int
    needed_tokens: int
    answer_tokens: int

    def tokens(self) -> int:
        """Return the context that prompt and answer need together."""
        return self.needed_tokens + self.earlier_tokens + self.answer_tokens


class History:
    """The turns that a prompt can have, the question last, each with its estimated length.

    Args:
        messages: The settled messages of the turns before this one in order of position, then this
            turn's question, once.
        system: The session's system prompt.
        unread_tokens: The estimated tokens of even older messages, which are in no prompt.

    Raises:
        PromptRefusedError: The history holds tool use.
    """

    def __init__(
        self, messages: Sequence[StoredMessage], *, system: str | None, unread_tokens: int = 0
    ) -> None:
        if any(message.role not in (Role.USER, Role.ASSISTANT) for message in messages):
            raise PromptRefusedError(
                Fault.TOOL_USE_IN_HISTORY,
                "this session used tools, which the provider does not support: start a new one",
            )
        self._system = system
        self._turns = _by_turn(messages)
        self._sizes = [sum(size_of(message.content) for message in turn) for turn in self._turns]
        # Where each turn begins, and the last one ends, counted from the beginning of the conversation.
        self._begins = [*accumulate(self._sizes, initial=unread_tokens)]

    def __len__(self) -> int:
        return len(self._turns)

    def system_tokens(self) -> int:
        """Return the length of the system prompt."""
        return size_of(self._system or "")

    def needed_tokens(self) -> int:
        """Return the length of what cannot be left out: system prompt and question."""
        return self.system_tokens() + self._sizes[-1]

    def check(self, context_tokens: int, max_output_tokens: int) -> None:
        """Refuse a question for which there is no room, however short the answer.

        Args:
            context_tokens: The most that prompt and answer may hold together.
            max_output_tokens: The most that the answer may use.

        Raises:
            PromptRefusedError: System prompt or question do not fit.
        """
        if self.needed_tokens() > context_tokens - least_answer(max_output_tokens, context_tokens):
            raise PromptRefusedError(Fault.CONTEXT_TOO_LONG, self.why_too_long())

    def why_too_long(self) -> str:
        """Return what of the prompt is too long when nothing else can be left out."""
        if self.system_tokens() > self._sizes[-1]:
            return "the session's system prompt is longer than the model's context: open a session with a shorter one"
        return "the message alone is longer than the model's context"

    def fit(self, context_tokens: int, max_output_tokens: int) -> Fit:
        """Leave out the oldest turns until the rest fits; the question is kept even if it does not.

        A provider caches the beginning of a prompt. So turns are left out a quarter of the room at a time: the
        conversation is marked at each quarter, from its beginning, and a prompt begins with a turn in which a mark
        is. Which one follows from the history alone, so that all workers begin with the same.

        Args:
            context_tokens: The most that prompt and answer may hold together.
            max_output_tokens: The most that the answer may use.
        """
        needed = self.needed_tokens()
        answer = answer_tokens(max_output_tokens, context_tokens, needed)
        room = context_tokens - self.system_tokens() - answer
        first = self._first_within(room)
        last = len(self._turns) - 1
        return Fit(first, self._begins[last] - self._begins[first], needed, answer)

    def question_alone(self, max_output_tokens: int) -> Fit:
        """Leave out all turns but the question."""
        return Fit(len(self._turns) - 1, 0, self.needed_tokens(), max_output_tokens)

    def has_unanswered(self, first: int) -> bool:
        """Return whether a turn from `first` on, before the question, has no answer."""
        return not all(_is_answered(turn) for turn in self._turns[first:-1])

    def answered(self) -> "History":
        """Return the history without the turns that no provider has answered, except for the question."""
        turns = [turn for turn in self._turns[:-1] if _is_answered(turn)]
        messages = [message for turn in (*turns, self._turns[-1]) for message in turn]
        return History(messages, system=self._system, unread_tokens=self._begins[0])

    def prompt(self, fit: Fit, traceparent: str | None) -> Prompt:
        """Return the prompt that has what `fit` says."""
        kept = (message for turn in self._turns[fit.first :] for message in turn)
        return Prompt(_alternating(kept), self._system, fit.answer_tokens, traceparent)

    def _first_within(self, room: int) -> int:
        begins, last = self._begins, len(self._turns) - 1
        excess = begins[-1] - room
        if excess <= 0:
            return 0
        step = max(1, room // _STEPS)
        for index in range(last):
            has_mark = begins[index] // step < begins[index + 1] // step
            if has_mark and begins[index] >= excess:
                return index
        return last


def least_answer(max_output_tokens: int, context_tokens: int) -> int:
    """Return the shortest limit to which an answer is lowered so that its question fits."""
    return min(max_output_tokens, max(1, context_tokens // _LEAST_ANSWER_SHARE))


def answer_tokens(max_output_tokens: int, context_tokens: int, needed_tokens: int = 0) -> int:
    """Return the limit of an answer: what was asked for, unless it leaves too little of the context to the prompt.

    Args:
        max_output_tokens: What was asked for.
        context_tokens: The most that prompt and answer may hold together.
        needed_tokens: What the prompt cannot do without.
    """
    is_modest = max_output_tokens * 4 <= context_tokens * 3
    most = max_output_tokens if is_modest else max(1, context_tokens // 2)
    return max(min(most, context_tokens - needed_tokens), least_answer(max_output_tokens, context_tokens))


def build_prompt(
    messages: Sequence[StoredMessage],
    *,
    system: str | None,
    max_output_tokens: int,
    context_tokens: int,
    unread_tokens: int = 0,
    traceparent: str | None = None,
) -> tuple[Prompt, int]:
    """Build the prompt for a turn.

    Args:
        messages: The settled messages of the turns before this one in order of position, then this
            turn's question, once.
        system: The session's system prompt.
        max_output_tokens: The most that the answer may use; this much of the context is kept free.
        context_tokens: The most that prompt and answer may hold together.
        unread_tokens: The estimated tokens of even older messages, which are in no prompt.
        traceparent: Trace context for the provider.

    Returns:
        The prompt, and how many of the oldest turns were left out.

    Raises:
        PromptRefusedError: The history holds tool use, or the question alone does not fit.
    """
    history = History(messages, system=system, unread_tokens=unread_tokens)
    history.check(context_tokens, max_output_tokens)
    fit = history.fit(context_tokens, max_output_tokens)
    return history.prompt(fit, traceparent), fit.first


def prompt_tokens(prompt: Prompt) -> int:
    """Estimate the input tokens of `prompt`, for a call whose provider did not report them."""
    return size_of(prompt.system or "") + sum(size_of(message.content) for message in prompt.messages)


def size_of(text: str) -> int:
    """Return the estimated tokens of a message with this text; 0 for an empty text."""
    return estimate_tokens(text) + TOKENS_PER_MESSAGE if text else 0


def _is_answered(turn: Sequence[StoredMessage]) -> bool:
    return any(message.role == Role.ASSISTANT for message in turn)


def _by_turn(messages: Iterable[StoredMessage]) -> list[list[StoredMessage]]:
    turns: list[list[StoredMessage]] = []
    for message in messages:
        if turns and turns[-1][0].turn_number == message.turn_number:
            turns[-1].append(message)
        else:
            turns.append([message])
    return turns


def _alternating(messages: Iterable[StoredMessage]) -> tuple[PromptMessage, ...]:
    """Join neighbours of one role, and begin with the user."""
    joined: list[PromptMessage] = []
    for message in messages:
        role = Role(message.role)
        if joined and joined[-1].role is role:
            joined[-1] = PromptMessage(role, join_parts(joined[-1].parts, message.parts))
        elif joined or role is Role.USER:
            joined.append(PromptMessage(role, message.parts))
    return tuple(joined)
