"""One turn over any number of connections, whatever the network does: without a network."""

import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from turnkeeper_client import (
    ContentDelta,
    Done,
    ForbiddenError,
    Gap,
    InvalidRequestError,
    NotFoundError,
    ProtocolError,
    Snapshot,
    StreamLostError,
    TextMismatchError,
    TimeLimitError,
    UnauthorizedError,
    UnknownEvent,
    Via,
)
from turnkeeper_client.following import Follower, follow
from turnkeeper_client.line import Line
from turnkeeper_client.reading import Reading, TextView
from turnkeeper_client.steps import Closed, Heard, Open, Reply, Silence, Steps, Wire

from clients.python.tests.wire import (
    LOST,
    SESSION,
    TURN,
    Service,
    answer,
    done,
    event,
    log_of,
    means,
    problem,
    text_of,
)

DELTAS = ["One ", "two ", "three ", "four."]


def following(
    service: Service,
    via: Via = Via.WEBSOCKET,
    limit_seconds: float = 900,
    after: int = 0,
    text: str | None = None,
    **policy: Any,
) -> tuple[Follower, Steps[None]]:
    follower = Follower(SESSION, Reading(TURN, after, text))
    return follower, follow(follower, Line(means(service.clock, **policy), via, limit_seconds))


def shown(service: Service) -> str:
    """What somebody has on the screen who does as the pieces say."""
    view, text = TextView(), ""
    for each in service.emitted:
        for piece in view.pieces(each):
            text = piece if piece.replaces else text + piece
    return text


def numbers(service: Service) -> list[int]:
    return [each.seq for each in service.emitted if not isinstance(each, Gap | Snapshot)]


@st.composite
def faults(draw: st.DrawFn) -> list[Any]:
    """What happens to the frames, one after another, before the network is good again."""
    kinds = st.sampled_from(["good", "good", "good", "twice", "dropped", "lost", "silent", 1012, 4409, 1001])
    return draw(st.lists(kinds, max_size=60))


class Faulty:
    def __init__(self, kinds: list[Any]) -> None:
        self.kinds = iter(kinds)

    def __call__(self, frame: dict[str, Any]) -> list[dict[str, Any]] | Reply:
        match next(self.kinds, "good"):
            case "twice":
                return [frame, frame]
            case "dropped":
                return []
            case "lost":
                return LOST
            case "silent":
                return Silence()
            case int(code):
                return Closed(code)
        return [frame]


@settings(deadline=None, max_examples=200)
@given(
    faults(),
    st.sampled_from([Via.WEBSOCKET, Via.SSE]),
    st.lists(st.text(min_size=1), min_size=1, max_size=12),
)
def test_every_event_comes_once_and_in_order_whatever_the_network_does(
    kinds: list[Any], via: Via, deltas: list[str]
):
    service = Service(log_of(deltas), Faulty(kinds))
    follower, steps = following(service, via, limit_seconds=1e9, reconnect_seconds=1e9)
    service.run(steps)
    assert numbers(service) == list(range(1, len(service.log) + 1))
    assert follower.reading.text == "".join(deltas) == shown(service)
    assert isinstance(service.emitted[-1], Done)
    assert follower.mended == 0
    assert not service.is_open


def test_after_a_cut_the_stream_goes_on_behind_the_last_event():
    service = Service(log_of(DELTAS))
    seen = []

    def fault(frame: dict[str, Any]) -> Any:
        if frame.get("seq") == 5 and not seen:
            seen.append(frame)
            return LOST
        return [frame]

    service.fault = fault
    _, steps = following(service)
    service.run(steps)
    assert [each["after"] for each in service.asked] == [0, 4]
    assert numbers(service) == [*range(1, 10)]


def test_a_reset_voids_the_text_and_the_screen():
    log = log_of(DELTAS)[:6]
    log.append(event("message_reset", 7, 1, reason="worker_lost"))
    log.append(event("turn_started", 8, 2, provider="p", model="m"))
    log.append(event("message_start", 9, 2, message_id="m"))
    log.append(event("content_delta", 10, 2, delta="Anew."))
    log.append(done(11, "Anew.", 2))
    service = Service(log)
    follower, steps = following(service)
    service.run(steps)
    assert follower.reading.text == shown(service) == "Anew."
    assert (follower.reading.attempt, follower.mended) == (2, 0)


def test_a_gap_and_its_snapshot_take_the_place_of_what_is_no_longer_held():
    log = log_of(DELTAS)
    service = Service(log)
    gap = {"type": "gap", "session_id": SESSION, "turn_id": TURN, "from": 1, "to": log[-1]["seq"] - 1}
    service.log = [gap | {"seq": 1}, service.snapshot(), log[-1]]
    follower, steps = following(service)
    service.run(steps)
    assert [type(each) for each in service.emitted] == [Gap, Snapshot, Done]
    assert follower.reading.text == shown(service) == "".join(DELTAS)


def test_a_snapshot_that_continues_what_was_shown_adds_only_the_rest():
    view = TextView()
    log = log_of(DELTAS)
    delta = ContentDelta(session_id=SESSION, turn_id=TURN, seq=4, attempt=1, ts=None, delta="One ")
    snapshot = Service(log).snapshot()
    view.pieces(delta)
    (piece,) = view.pieces(
        Snapshot(
            turn_id=TURN,
            seq=snapshot["seq"],
            attempt=1,
            status="running",
            message_id="m",
            content=snapshot["content"],
            reasoning="",
        )
    )
    assert (piece, piece.replaces) == ("two three four.", False)


def test_a_text_that_is_not_the_stored_one_is_fetched_again():
    spoilt = []

    def fault(frame: dict[str, Any]) -> Any:
        if frame.get("seq") == 5 and not spoilt:
            spoilt.append(frame)
            return [frame | {"delta": "wrong "}]
        return [frame]

    for via in (Via.WEBSOCKET, Via.SSE):
        spoilt.clear()
        service = Service(log_of(DELTAS), fault)
        follower, steps = following(service, via)
        service.run(steps)
        assert follower.mended == 1
        assert follower.reading.text == shown(service) == "".join(DELTAS)
        assert [type(each) for each in service.emitted[-2:]] == [Snapshot, Done]
        assert [each for each in service.emitted if isinstance(each, Done)] == service.emitted[-1:]


def test_a_text_that_stays_wrong_is_an_error_and_no_answer():
    log = log_of(DELTAS)
    log[-1] = done(log[-1]["seq"], "something else")
    for via in (Via.WEBSOCKET, Via.SSE):
        service = Service(log)
        _, steps = following(service, via)
        with pytest.raises(TextMismatchError) as raised:
            service.run(steps)
        assert raised.value.text == "".join(DELTAS)
        assert not any(isinstance(each, Done) for each in service.emitted)


def test_text_of_an_attempt_whose_beginning_was_not_heard_is_read_again():
    # The log was lost with its worker: the next attempt used the numbers again that were read before.
    old = log_of(["lost ", "words "])
    new = [
        *old[:2],
        event("turn_started", 3, 2, provider="p", model="m"),
        event("message_start", 4, 2, message_id="m"),
        event("content_delta", 5, 2, delta="kept "),
        event("content_delta", 6, 2, delta="words"),
        done(7, "kept words", 2),
    ]
    service = Service(old[:5])

    def fault(frame: dict[str, Any]) -> Any:
        if frame["type"] == "caught_up" and service.log is not new:
            service.log = new
            return LOST
        return [frame]

    service.fault = fault
    follower, steps = following(service)
    service.run(steps)
    assert follower.reading.text == shown(service) == "kept words"
    assert (follower.mended, service.asked[-1]["replay"]) == (1, "snapshot")
    # Found before anything of it was shown behind the wrong beginning.
    assert not any(isinstance(each, ContentDelta) and each.attempt == 2 for each in service.emitted)


def test_a_reading_from_a_cursor_proves_the_text_where_it_was_given_the_beginning():
    for text, is_whole in (("One two ", True), (None, False)):
        service = Service(log_of(DELTAS))
        follower, steps = following(service, after=5, text=text)
        service.run(steps)
        assert numbers(service) == [6, 7, 8, 9]
        assert follower.reading.is_whole is is_whole
        assert follower.reading.text == (text or "") + "three four."
    service = Service(log_of(DELTAS))
    follower, steps = following(service, after=5, text="wrong ")
    service.run(steps)
    assert (follower.reading.text, follower.mended) == ("".join(DELTAS), 1)


def test_unknown_events_count_and_unknown_frames_do_not():
    log = log_of(DELTAS)
    log[6] = event("sparkle", 7, colour="red")
    log[-1] = done(9, "One two three ")
    service = Service(log, lambda frame: [{"type": "weather"}, frame, frame | {"turn_id": "another"}])
    follower, steps = following(service)
    service.run(steps)
    (unknown,) = [each for each in service.emitted if isinstance(each, UnknownEvent)]
    assert (unknown.type, unknown.fields["colour"]) == ("sparkle", "red")
    assert numbers(service) == [*range(1, 10)]
    assert follower.reading.text == "One two three "


@pytest.mark.parametrize(
    ("code", "error"), [(4401, UnauthorizedError), (4403, ForbiddenError), (4400, ProtocolError)]
)
def test_some_close_codes_end_the_stream(code: int, error: type[Exception]):
    service = Service(log_of(DELTAS), lambda frame: Closed(code))
    _, steps = following(service)
    with pytest.raises(error):
        service.run(steps)
    assert len(service.opened) == 1


def test_too_many_sockets_are_given_time():
    seen = []

    def fault(frame: dict[str, Any]) -> Any:
        seen.append(frame)
        return Closed(4429) if len(seen) == 1 else [frame]

    service = Service(log_of(DELTAS), fault)
    _, steps = following(service)
    service.run(steps)
    assert service.pauses[0] >= 10


def test_a_subscription_that_is_refused_ends_the_stream_or_is_tried_again():
    refused = {"type": "refused", "op": "subscribe", "session_id": SESSION}
    service = Service(log_of(DELTAS), lambda frame: [refused | {"code": "not_found"}])
    with pytest.raises(NotFoundError):
        service.run(following(service)[1])
    seen = []

    def fault(frame: dict[str, Any]) -> Any:
        seen.append(frame)
        return [refused | {"code": "unavailable"}] if len(seen) == 1 else [frame]

    service = Service(log_of(DELTAS), fault)
    service.run(following(service)[1])
    assert len(service.opened) == 2


def test_a_handshake_that_is_refused_for_good_is_said_at_once():
    for via in Via.AUTO, Via.WEBSOCKET, Via.SSE:
        service = Service(log_of(DELTAS), refuse=lambda asked: problem(401, "unauthorized"))
        with pytest.raises(UnauthorizedError):
            service.run(following(service, via)[1])
        assert len(service.opened) == 1


def test_where_websockets_do_not_get_through_server_sent_events_do():
    def lost(asked: Open) -> Reply:
        return LOST if asked.wire is Wire.WEBSOCKET else None

    def stripped(asked: Open) -> Reply:
        return problem(400, "invalid_request") if asked.wire is Wire.WEBSOCKET else None

    for refuse, most in ((lost, 2), (stripped, 1)):
        service = Service(log_of(DELTAS), refuse=refuse)
        follower, steps = following(service, Via.AUTO)
        service.run(steps)
        assert [each.wire for each in service.opened] == [Wire.WEBSOCKET] * most + [Wire.EVENTS]
        assert follower.reading.text == "".join(DELTAS)
    for refuse, error in ((lost, StreamLostError), (stripped, InvalidRequestError)):
        service = Service(log_of(DELTAS), refuse=refuse)
        with pytest.raises(error):
            service.run(following(service, Via.WEBSOCKET)[1])


def test_a_ticket_that_cannot_be_had_is_asked_for_until_the_stream_is_given_up():
    ticket = answer({"ticket": "once", "expires_at": "2026-01-31T09:30:00.000Z"}, 201)
    replies: list[Reply] = [LOST, *[problem(503, "unavailable")] * 7, LOST, ticket]
    service = Service(log_of(DELTAS), answers={"/v1/tickets": lambda step: replies.pop(0)})
    follower, steps = following(service, Via.TICKET)
    service.run(steps)
    assert follower.reading.text == "".join(DELTAS)
    assert [each.ticket for each in service.opened] == ["once"]
    service = Service(log_of(DELTAS), answers={"/v1/tickets": lambda step: problem(404, "not_found")})
    with pytest.raises(NotFoundError):
        service.run(following(service, Via.TICKET)[1])


def test_a_stream_that_cannot_be_opened_is_given_up_in_time_and_says_where_to_go_on():
    service = Service(log_of(DELTAS), lambda frame: LOST if frame.get("seq") == 6 else [frame])
    _, steps = following(service, reconnect_seconds=30)
    begun = service.clock.now
    with pytest.raises(StreamLostError) as raised:
        service.run(steps)
    assert raised.value.after == 5
    assert 15 < service.clock.now - begun <= 31
    assert not service.is_open


def test_the_time_limit_of_a_stream_is_kept_while_nothing_comes():
    service = Service(log_of(DELTAS)[:3])
    begun = service.clock.now
    with pytest.raises(TimeLimitError):
        service.run(following(service, limit_seconds=100, reconnect_seconds=1e9)[1])
    assert service.clock.now - begun <= 101


def test_what_is_no_frame_is_a_clear_error():
    for heard in (Heard("{"), Heard("[]"), Heard("[" * 100_000)):
        service = Service(log_of(DELTAS), lambda frame, heard=heard: heard)
        with pytest.raises(ProtocolError):
            service.run(following(service)[1])


def test_pauses_grow_and_are_drawn_at_random():
    service = Service(log_of(DELTAS), refuse=lambda asked: LOST)
    with pytest.raises(StreamLostError):
        service.run(following(service, reconnect_seconds=300)[1])
    assert len(set(service.pauses)) == len(service.pauses)
    assert all(pause <= 0.25 * 2**number for number, pause in enumerate(service.pauses))
    assert max(service.pauses) > 3
    assert random.Random(1).uniform(0, 0.25) == service.pauses[0]


def test_the_log_and_its_text_agree():
    assert text_of(log_of(DELTAS)) == "".join(DELTAS)
