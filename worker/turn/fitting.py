"""Fits a turn's history into the model's context, and makes it shorter if the provider refuses it.

How long the context is may be unknown or set wrong, and how many tokens a text has is an estimate. So a refusal is
not the end while anything can be left out: the prompt is made shorter, by what the refusal tells or else by half of
what can go, and the provider is asked again. Nothing is billed for a refusal.
"""

from collections.abc import Iterator
from typing import Final
from uuid import UUID

from shared.errors import ContextTold, Fault
from worker.providers.context import ContextMemory
from worker.providers.provider import Prompt
from worker.turn.prompt import Fit, History, answer_tokens, prompt_tokens

_MOST_SHORTENED: Final = 4
"""How often a prompt is made shorter; the last time nothing but the question is left."""
_MARGIN: Final = 0.95
"""Of a room that is computed from another prompt's density: a text with less English has more tokens for its length."""


class Fitting:
    """One turn's prompts. Made in any thread; then belongs to the loop's.

    Args:
        history: What a prompt may have.
        max_output_tokens: The most that the answer may use.
        context_tokens: The setting: the most that prompt and answer may hold together.
        memory: What is known of the model's context.
        organization_id: Whose turn it is.
        unread_turns: Earlier turns that were not even read.
        traceparent: Trace context for the provider.

    Raises:
        PromptRefusedError: The question does not fit into what the setting says.
    """

    __slots__ = (
        "_all_turns",
        "_context",
        "_fit",
        "_history",
        "_is_learned",
        "_max_output",
        "_memory",
        "_organization_id",
        "_shortened",
        "_traceparent",
        "prompt",
    )

    def __init__(
        self,
        history: History,
        max_output_tokens: int,
        context_tokens: int,
        memory: ContextMemory,
        organization_id: UUID,
        *,
        unread_turns: int = 0,
        traceparent: str | None = None,
    ) -> None:
        history.check(context_tokens, max_output_tokens)
        self._history = history
        self._max_output = max_output_tokens
        self._memory = memory
        self._organization_id = organization_id
        self._traceparent = traceparent
        self._all_turns = len(history) + unread_turns
        self._shortened = 0
        self._is_learned = False
        self._context = min(context_tokens, memory.tokens(organization_id) or context_tokens)
        self._fit = history.fit(self._context, max_output_tokens)
        self.prompt = history.prompt(self._fit, traceparent)

    def left_out(self) -> int:
        """Return how many earlier turns the prompt goes without."""
        return self._all_turns - (len(self._history) - self._fit.first)

    def again(self, fault: Fault, told: ContextTold | None) -> Prompt | None:
        """Return another prompt for the same question, which the provider may take; None if there is none.

        Args:
            fault: Why it refused the last one.
            told: What it told of its context; None if the length is not why.
        """
        if fault is Fault.CONTEXT_TOO_LONG or (told is not None and fault is Fault.PROVIDER_REJECTED):
            return self._shorter(told or ContextTold())
        return self.without_unanswered() if fault is Fault.PROVIDER_REJECTED else None

    def taken(self) -> None:
        """Remember that the provider took the last prompt."""
        if self._is_learned:
            self._memory.learn(self._organization_id, self._context)

    def why_too_long(self) -> str | None:
        """Return what is too long if nothing more can be left out; None if something can."""
        return None if self._fit.earlier_tokens else self._history.why_too_long()

    def _shorter(self, told: ContextTold) -> Prompt | None:
        self._shortened += 1
        if self._shortened > _MOST_SHORTENED:
            return None
        was = self._fit
        half = was.needed_tokens + was.answer_tokens + was.earlier_tokens // 2
        if self._shortened < _MOST_SHORTENED:
            for context in self._contexts(told, half):
                fit = self._history.fit(context, self._max_output)
                is_less = fit.first == was.first and fit.answer_tokens < was.answer_tokens
                if fit.first > was.first or (is_less and not told.is_of_prompt_alone()):
                    return self._use(fit, context)
        if was.earlier_tokens == 0:
            return None
        return self._use(self._history.question_alone(was.answer_tokens), half)

    def _contexts(self, told: ContextTold, half: int) -> Iterator[int]:
        """Yield lengths to try: by what was told, then by half of what can be left out."""
        of_told = self._by_what_is(told)
        if of_told is not None:
            # Even if the question alone is too long: the next one need not find out again.
            self._memory.learn(self._organization_id, self._learned_by(told, of_told))
            yield of_told
        if self._fit.earlier_tokens:
            yield min(half, of_told or half)

    def _learned_by(self, told: ContextTold, of_told: int) -> int:
        """Return what is remembered: what one question alone has for its length says nothing of other texts."""
        if told.limit is None or not told.is_of_prompt_alone() or self._fit.earlier_tokens:
            return of_told
        return max(of_told, min(told.limit, self._context))

    def _by_what_is(self, told: ContextTold) -> int | None:
        """Return the told length in our estimate's tokens; None if it explains no refusal."""
        if told.limit is None:
            return None
        sent = max(1, prompt_tokens(self.prompt))
        answer = answer_tokens(self._max_output, told.limit, self._fit.needed_tokens)
        room = max(0, told.limit - answer)
        if told.prompt is not None and told.prompt > sent:
            room = int(room * _MARGIN * sent / told.prompt)
        context = room + answer
        return context if context < self._fit.tokens() else None

    def _use(self, fit: Fit, context: int) -> Prompt:
        self._fit, self._context, self._is_learned = fit, context, True
        self._memory.shortened += 1
        self.prompt = self._history.prompt(fit, self._traceparent)
        return self.prompt

    def without_unanswered(self) -> Prompt | None:
        """Leave out earlier questions that no provider has ever taken: one of them may be what it refuses.

        Returns:
            The prompt without them; None if it has none.
        """
        if not self._history.has_unanswered(self._fit.first):
            return None
        self._history = self._history.answered()
        self._fit = self._history.fit(self._context, self._max_output)
        self.prompt = self._history.prompt(self._fit, self._traceparent)
        return self.prompt
