"""The websocket protocol: receives the client's operations and sends events, in frames of RFC 6455."""

import asyncio
import logging
from collections import deque
from typing import ClassVar, Final, Literal, TypeAlias
from uuid import UUID

import msgspec

from api.relay.connection import Connection, Phase
from api.relay.delivery import Delivery
from api.relay.face import FaceKind, Farewell, Parting
from api.relay.frames import (
    CloseCode,
    FrameError,
    FrameReader,
    Opcode,
    check_close,
    encode,
    encode_close,
    encode_text,
)
from api.relay.questions import Questions
from api.relay.store import StreamStore, TurnState
from shared.errors import ProblemCode, UnavailableError
from shared.ids import parse_id
from shared.turn import events
from shared.turn.replay import Outgoing

_log = logging.getLogger(__name__)

MOST_FRAME_BYTES: Final = 16 * 1024
MOST_SUBSCRIPTIONS: Final = 500
"""Most sessions on one socket: more than a product shows at once, and a bound on what one socket costs."""
_FRAMES_PER_SECOND: Final = 50.0
_BURST_FRAMES: Final = 600.0
"""Enough to repeat all subscriptions after a reconnect, and some more."""
_MOST_UNANSWERED: Final = 2
_PING: Final = encode_text(events.Ping().encoded()) + encode(Opcode.PING, b"")
"""The one is for scripts in browsers, which do not see the other."""
_PONG: Final = encode_text(b'{"type":"pong"}')


class Subscribe(msgspec.Struct, tag_field="op", tag="subscribe", forbid_unknown_fields=True, frozen=True):
    """Read a session: one of its turns from a cursor, then its live events."""

    session_id: str
    turn_id: str | None = None
    after: int | None = None
    replay: Literal["events", "snapshot"] = "events"


class Unsubscribe(msgspec.Struct, tag_field="op", tag="unsubscribe", forbid_unknown_fields=True, frozen=True):
    """Stop reading a session."""

    session_id: str


class Stop(msgspec.Struct, tag_field="op", tag="stop", forbid_unknown_fields=True, frozen=True):
    """Stop a turn."""

    turn_id: str


class Ping(msgspec.Struct, tag_field="op", tag="ping", forbid_unknown_fields=True, frozen=True):
    """Ask for a pong."""


Operation: TypeAlias = Subscribe | Unsubscribe | Stop | Ping
_decode: Final = msgspec.json.Decoder(Operation).decode


class Conversation:
    """A websocket's `Face`: runs operations one after another, and sends events as text frames."""

    __slots__ = (
        "_connection",
        "_credit",
        "_credit_at",
        "_delivery",
        "_doing",
        "_loop",
        "_operations",
        "_questions",
        "_reader",
        "_store",
        "_unanswered",
    )
    kind: ClassVar[int] = FaceKind.WEBSOCKET
    ends_with_turn: ClassVar[bool] = False

    def __init__(
        self, connection: Connection, delivery: Delivery, store: StreamStore, questions: Questions
    ) -> None:
        self._connection = connection
        self._delivery = delivery
        self._store = store
        self._questions = questions
        self._loop = asyncio.get_running_loop()
        self._reader = FrameReader(MOST_FRAME_BYTES)
        self._operations: deque[Operation] | None = None
        self._doing: asyncio.Task[None] | None = None
        self._credit = _BURST_FRAMES
        self._credit_at = self._loop.time()
        self._unanswered = 0

    def event(self, outgoing: Outgoing) -> bytes:
        """Encode an event; its bytes are the message's body."""
        return encode_text(outgoing.encoded)

    def heartbeat(self) -> bytes | None:
        """Encode a ping; None after two that were not answered."""
        if self._unanswered >= _MOST_UNANSWERED:
            return None
        self._unanswered += 1
        return _PING

    def farewell(self, code: CloseCode, reason: str) -> Farewell:
        """Encode a close frame; the peer answers it."""
        return Farewell(encode_close(code, reason), Parting.LINGER)

    def receive(self, data: memoryview) -> None:
        """Receive frames from the client."""
        self._unanswered = 0
        try:
            for received in self._reader.feed(data):
                if self._connection.phase is not Phase.OPEN:
                    return
                if not self._may_say_more():
                    self._connection.close(CloseCode.TOO_MANY, "too many frames")
                    return
                self._take(received.opcode, received.payload)
        except FrameError as error:
            # Where the broken frame ends is unknown; the client's close frame is looked for in what follows.
            self._reader = FrameReader(MOST_FRAME_BYTES)
            self._connection.close(error.code, str(error))

    def peer_has_closed(self, data: memoryview) -> bool:
        """Return whether the client has answered our close frame."""
        try:
            return any(received.opcode is Opcode.CLOSE for received in self._reader.feed(data))
        except FrameError:
            return False  # it will close its side, or the two seconds will pass

    def stop(self) -> None:
        """Drop the operations that are waiting."""
        self._operations = None
        if self._doing is not None:
            self._doing.cancel()

    def _may_say_more(self) -> bool:
        now = self._loop.time()
        self._credit = min(_BURST_FRAMES, self._credit + (now - self._credit_at) * _FRAMES_PER_SECOND) - 1
        self._credit_at = now
        return self._credit >= 0

    def _take(self, opcode: Opcode, payload: bytes) -> None:
        match opcode:
            case Opcode.TEXT:
                self._take_operation(payload)
            case Opcode.PING:
                self._connection.send(encode(Opcode.PONG, payload))  # RFC 6455 section 5.5.3
            case Opcode.CLOSE:
                code = check_close(payload)
                self._connection.answer_close(encode_close(code))
            case _:
                pass  # a pong: receiving anything has already counted

    def _take_operation(self, payload: bytes) -> None:
        try:
            operation = _decode(payload)
        except (msgspec.DecodeError, RecursionError):
            self._connection.close(CloseCode.BAD_FRAME, "bad frame")
            return
        if isinstance(operation, Subscribe) and (operation.after or 0) < 0:
            self._connection.close(CloseCode.BAD_FRAME, "after is negative")
        elif isinstance(operation, Ping):
            self._connection.send(_PONG)
        else:
            # Bounded by the credit: at most its burst can wait here.
            self._operations = self._operations or deque()
            self._operations.append(operation)
            if self._doing is None:
                self._doing = self._loop.create_task(self._do_all())

    async def _do_all(self) -> None:
        try:
            while self._operations:
                operation = self._operations.popleft()
                try:
                    await self._do(operation)
                except UnavailableError:
                    self._refuse(operation, ProblemCode.UNAVAILABLE)
                except Exception:  # noqa: BLE001 -- a bug of ours: the client must not wait for ever
                    _log.exception("operation failed", extra=_ids_of(operation))
                    self._connection.close(CloseCode.INTERNAL_ERROR)
                    return
        finally:
            self._doing = None

    async def _do(self, operation: Operation) -> None:
        match operation:
            case Subscribe():
                await self._subscribe(operation)
            case Unsubscribe():
                session_id = parse_id(operation.session_id)
                if session_id is not None:
                    self._delivery.leave(self._connection, session_id)
            case Stop():
                turn_id = parse_id(operation.turn_id)
                caller = self._connection.caller
                if turn_id is None or not await self._questions.ask(
                    self._store.request_stop, caller, turn_id
                ):
                    self._refuse(operation, ProblemCode.NOT_FOUND)
            case Ping():
                pass  # answered when it was read, ahead of the waiting operations

    async def _subscribe(self, operation: Subscribe) -> None:
        connection = self._connection
        session_id = parse_id(operation.session_id)
        named = None if operation.turn_id is None else parse_id(operation.turn_id)
        scope = connection.caller.session_id
        is_out_of_scope = session_id is None or scope not in (None, session_id)
        if session_id is None or is_out_of_scope or (named is None and operation.turn_id is not None):
            self._refuse(operation, ProblemCode.NOT_FOUND)
            return
        if session_id not in connection.sessions and len(connection.sessions) >= MOST_SUBSCRIPTIONS:
            connection.close(CloseCode.TOO_MANY, "too many subscriptions")
            return
        if not await self._questions.ask(self._store.session_is_visible, connection.caller, session_id):
            self._refuse(operation, ProblemCode.NOT_FOUND)
            return
        is_first = session_id not in connection.sessions
        # Subscribe first and read afterwards, so that turns that begin in between are received.
        member = await self._delivery.enter(connection, session_id)
        try:
            newest, state = await self._questions.ask(self._look_up, session_id, named)
        except UnavailableError:
            if is_first:  # what is refused takes nothing away that there was
                self._delivery.leave(connection, session_id)
            raise
        if named is not None and (state is None or state.session_id != session_id):
            if is_first:
                self._delivery.leave(connection, session_id)
            self._refuse(operation, ProblemCode.NOT_FOUND)
            return
        self._delivery.set_newest(session_id, newest)
        if state is None and newest is not None:
            self._delivery.pass_over(member, newest)
        self._send(
            events.Subscribed(
                session_id=str(session_id),
                turn_id=None if state is None else str(state.turn_id),
                last_seq=0 if state is None else state.last_seq,
            ).encoded()
        )
        self._delivery.bring(
            member,
            session_id,
            None if state is None else state.turn_id,
            after=operation.after or 0,
            by_snapshot=operation.replay == "snapshot",
            row=None if state is None else state.row_state(),
        )

    def _look_up(self, session_id: UUID, named: UUID | None) -> tuple[UUID | None, TurnState | None]:
        """Read the session's newest turn and the one to replay, in one visit to the pool."""
        caller = self._connection.caller
        newest = self._store.newest_turn(caller, session_id)
        turn_id = named or self._store.active_turn(caller, session_id)
        return newest, None if turn_id is None else self._store.turn(caller, turn_id)

    def _refuse(self, operation: Operation, code: ProblemCode) -> None:
        match operation:
            case Subscribe(session_id=session_id):
                self._say(type="refused", op="subscribe", session_id=session_id, code=code)
            case Stop(turn_id=turn_id):
                self._say(type="refused", op="stop", turn_id=turn_id, code=code)
            case _:
                pass  # nothing else can be refused

    def _say(self, **frame: str | int | None) -> None:
        self._send(msgspec.json.encode(frame))

    def _send(self, frame: bytes) -> None:
        if self._connection.phase is Phase.OPEN:
            self._connection.send(encode_text(frame))


def _ids_of(operation: Operation) -> dict[str, str]:
    """Return the ids that a log line names of an operation: of the client's text, only what is an id."""
    named = {name: parse_id(getattr(operation, name, None) or "") for name in ("session_id", "turn_id")}
    return {name: str(value) for name, value in named.items() if value is not None}
