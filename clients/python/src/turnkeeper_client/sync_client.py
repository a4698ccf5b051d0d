"""The synchronous client: performs the core's steps with blocking I/O.

Several threads may use one client; a stream belongs to one thread.
"""

import ssl
from collections.abc import Callable, Generator, Iterable, Iterator
from types import TracebackType
from typing import Any, Concatenate, Generic, ParamSpec, Self, TypeVar

import httpx

from turnkeeper_client import asking, calls
from turnkeeper_client.address import (
    Address,
)
from turnkeeper_client.asking import TURN_SECONDS, Progress, Question, StreamState
from turnkeeper_client.events import Done, Event
from turnkeeper_client.exchange import Call, exchange
from turnkeeper_client.line import Via
from turnkeeper_client.methods import described
from turnkeeper_client.models import Answer, Page, Turn
from turnkeeper_client.reading import Piece, TextView
from turnkeeper_client.retry import RetryPolicy
from turnkeeper_client.steps import (
    Emit,
    Finished,
    Reply,
    Steps,
    advance,
)
from turnkeeper_client.sync_network import Network

P = ParamSpec("P")
T = TypeVar("T")


class Stream(StreamState, Generic[T]):
    """A turn or a session that is being streamed: iterate it. Leaving the loop or the `with` block closes it."""

    def __init__(
        self,
        progress: Progress,
        steps: Steps[Any],
        network: Network,
        view: Callable[[Any], Iterable[T]],
    ) -> None:
        super().__init__(progress)
        self._items = _run(steps, network, view)

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> T:
        return next(self._items)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def until_done(self) -> Done:
        """Read to the end and return it.

        Raises:
            ValueError: The stream was closed before.
        """
        for _ in self:
            pass
        if self.done is None:
            raise ValueError("the stream was closed before its end")
        return self.done

    def close(self) -> None:
        """Close the connection; the service continues its work."""
        self._items.close()


def _run(steps: Steps[Any], network: Network, view: Callable[[Any], Iterable[T]]) -> Generator[T, None, None]:
    reply: Reply = None
    try:
        while not isinstance(step := advance(steps, reply), Finished):
            if isinstance(step, Emit):
                yield from view(step.item)
                reply = None
            else:
                reply = network.perform(step)
    finally:
        steps.close()
        network.hang()


def _method(build: Callable[P, Call[T]]) -> Callable[Concatenate["Client", P], T]:
    def method(self: "Client", /, *args: P.args, **kwargs: P.kwargs) -> T:
        return self._call(build(*args, **kwargs))

    return described(method, build)


class Client:
    """Speaks to a Turnkeeper; `with` closes it.

    Every method raises `ApiError` (one class for each code) if the service refuses, and `ConnectionFailedError` if it
    does not answer.
    """

    def __init__(
        self,
        url: str,
        key: str,
        *,
        policy: RetryPolicy | None = None,
        via: Via | str = Via.AUTO,
        trust_env: bool = True,
        ssl_context: ssl.SSLContext | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """Prepare the client; no connection is opened yet.

        Args:
            url: The service's URL, such as `https://turnkeeper.example.com`.
            key: An API key.
            policy: How hard to try.
            via: How streams arrive: `auto`, `websocket`, `ticket` or `sse`.
            trust_env: Whether to use the environment's proxies.
            ssl_context: For your own authorities and certificates.
            transport: For tests: answers HTTP requests instead of the network.
        """
        self._address = Address(url, key, trust_env, ssl_context)
        self._http = httpx.Client(**self._address.http_options(), transport=transport)
        self._means = asking.means_of(policy)
        self._via = Via(via)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Client({self._address.url!r})"

    def close(self) -> None:
        """Close idle connections; a stream is closed separately."""
        self._http.close()

    create_session = _method(calls.create_session)
    list_sessions = _method(calls.list_sessions)
    search_sessions = _method(calls.search_sessions)
    get_session = _method(calls.get_session)
    update_session = _method(calls.update_session)
    close_session = _method(calls.close_session)
    flag_session = _method(calls.flag_session)
    unflag_session = _method(calls.unflag_session)
    pause_session = _method(calls.pause_session)
    approve_plan = _method(calls.approve_plan)
    abort_plan = _method(calls.abort_plan)
    list_messages = _method(calls.list_messages)
    create_turn = _method(calls.create_turn)
    list_turns = _method(calls.list_turns)
    get_turn = _method(calls.get_turn)
    stop_turn = _method(calls.stop_turn)
    list_events = _method(calls.list_events)
    create_ticket = _method(calls.create_ticket)
    create_key = _method(calls.create_key)
    list_keys = _method(calls.list_keys)
    revoke_key = _method(calls.revoke_key)
    get_budget = _method(calls.get_budget)
    put_budget = _method(calls.put_budget)
    stop_organization = _method(calls.stop_organization)
    get_usage = _method(calls.get_usage)
    list_ledger = _method(calls.list_ledger)
    list_refusals = _method(calls.list_refusals)
    get_operations_summary = _method(calls.get_operations_summary)
    get_delays = _method(calls.get_delays)
    list_organization_turns = _method(calls.list_organization_turns)
    get_turn_report = _method(calls.get_turn_report)
    list_workers = _method(calls.list_workers)
    list_flagged_sessions = _method(calls.list_flagged_sessions)
    get_health = _method(calls.get_health)
    get_readiness = _method(calls.get_readiness)
    get_openapi = _method(calls.get_openapi)

    def every(self, listing: Callable[..., Page[T]], *args: Any, **kwargs: Any) -> Iterator[T]:
        """Yield the items of a listing method from all of its pages: `client.every(client.list_turns, session_id)`."""
        cursor: str | None = None
        while True:
            page = listing(*args, cursor=cursor, **kwargs)
            yield from page.data
            cursor = page.next_cursor
            if cursor is None:
                return

    def wait_for_turn(self, turn_id: str, *, limit_seconds: float = TURN_SECONDS) -> Turn:
        """Return the turn once it has ended, without a stream.

        Raises:
            TimeLimitError: It has not ended within the limit; the turn goes on.
        """
        return self._finish(asking.wait_for_turn(turn_id, self._means, limit_seconds))

    def ask(
        self,
        content: str,
        *,
        session_id: str | None = None,
        user: str | None = None,
        limit_seconds: float = TURN_SECONDS,
        **options: Any,
    ) -> Answer:
        """Ask, and return the finished answer.

        Args:
            content: The question.
            session_id: The session to ask in; None opens one, which the answer names.
            user: The new session's user, for keys that are not bound to one.
            limit_seconds: For everything.
            options: Those of `create_turn`.

        Raises:
            TurnEndedError: The turn failed or expired; it has the text that was stored.
            TimeLimitError: The limit has passed; the turn goes on.
        """
        question = Question(content, session_id, user, options)
        return self._finish(asking.ask(question, Progress(), self._means, self._via, limit_seconds))

    def ask_stream(
        self,
        content: str,
        *,
        session_id: str | None = None,
        user: str | None = None,
        limit_seconds: float = TURN_SECONDS,
        **options: Any,
    ) -> Stream[Piece]:
        """Ask, and stream the answer's text; see `ask` for the arguments and `stream_text` for the items."""
        question, progress = Question(content, session_id, user, options), Progress()
        steps = asking.ask(question, progress, self._means, self._via, limit_seconds)
        return self._stream(progress, steps, TextView().pieces)

    def stream_turn(
        self,
        turn: Turn | str,
        *,
        after: int = 0,
        text: str | None = None,
        limit_seconds: float = TURN_SECONDS,
    ) -> Stream[Event]:
        """Stream a turn's events, each once and in order, `Done` last, over as many connections as it takes.

        Args:
            turn: The turn, or its id.
            after: The last known `seq`.
            text: The text up to `after`; with it the whole text is known, and checked at the end.
            limit_seconds: For everything.

        Raises:
            StreamLostError: The connection was lost and could not be opened again.
            TextMismatchError: The text is not the stored one, even after it was fetched again.
            TimeLimitError: The limit has passed; the turn goes on.
        """
        progress = Progress()
        return self._stream(progress, self._follow(turn, progress, limit_seconds, after, text), _itself)

    def stream_text(self, turn: Turn | str, *, limit_seconds: float = TURN_SECONDS) -> Stream[Piece]:
        """Stream a turn's text: strings to append, unless `replaces` is true; see `stream_turn`."""
        progress = Progress()
        return self._stream(progress, self._follow(turn, progress, limit_seconds), TextView().pieces)

    def stream_session(self, session_id: str, *, limit_seconds: float | None = None) -> Stream[Event]:
        """Stream the events of all turns of a session that are running or begin from now on, until you close it.

        They arrive by websocket. With `limit_seconds` None there is no end, but every single wait has a limit.
        """
        return self._stream(
            Progress(), asking.watch_session(session_id, self._means, self._via, limit_seconds), _itself
        )

    def download_ledger(self, **filters: Any) -> Stream[bytes]:
        """Stream the ledger as CSV, with the filters of `list_ledger`. Requires an admin's key."""
        query = calls.ledger_csv_query(**filters)
        return self._stream(
            Progress(), asking.download("/v1/ledger", query, "text/csv", self._means), _itself
        )

    def _call(self, call: Call[T]) -> T:
        return self._finish(exchange(call, self._means))

    def _follow(
        self,
        turn: Turn | str,
        progress: Progress,
        limit_seconds: float,
        after: int = 0,
        text: str | None = None,
    ) -> Steps[None]:
        return asking.follow_turn(turn, progress, self._means, self._via, limit_seconds, after, text)

    def _finish(self, steps: Steps[T]) -> T:
        network, reply = Network(self._http, self._address), None
        try:
            while not isinstance(step := advance(steps, reply), Finished):
                reply = network.perform(step)
        finally:
            steps.close()
            network.hang()
        return step.value

    def _stream(self, progress: Progress, steps: Steps[Any], view: Callable[[Any], Iterable[T]]) -> Stream[T]:
        return Stream(progress, steps, Network(self._http, self._address), view)


def _itself(item: T) -> tuple[T]:
    return (item,)
