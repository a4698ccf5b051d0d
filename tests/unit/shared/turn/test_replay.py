"""Delivery as a whole: whatever pub/sub, the log and the row do, a reader has the whole text at the end (I4)."""

import json
from dataclasses import dataclass, field
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.errors import Fault, fault_error
from shared.turn.events import (
    ContentDelta,
    EventEncoder,
    MessageReset,
    MessageStart,
    TurnError,
    TurnQueued,
    TurnStarted,
)
from shared.turn.replay import (
    Entry,
    Outgoing,
    Pause,
    Position,
    ReadLog,
    RowState,
    Tail,
    Turn,
    Verdict,
    catch_up,
    follow,
    judge,
    tail_of,
)
from shared.turn.transcript import Transcript
from shared.turn.turns import TurnStatus
from tests.ends import done

SESSION = UUID(int=1)
TURN = UUID(int=2)
WHICH = Turn(SESSION, TURN)
ENCODER = EventEncoder(SESSION, TURN)
TS = "2026-01-31T09:30:00.000Z"


def event(seq, attempt, told=None):
    told = told or ContentDelta(f"<{attempt}.{seq}>")
    return Entry(attempt, seq, ENCODER.encode(told, seq, attempt, TS))


def turn_of(first_deltas, second_deltas):
    """A turn's events: one attempt, or two with a reset between them, to the end."""
    attempts = [(1, first_deltas)] if second_deltas is None else [(1, first_deltas), (2, second_deltas)]
    entries = [event(1, 0, TurnQueued())]
    for attempt, deltas in attempts:
        if attempt == 2:
            entries.append(event(len(entries) + 1, 2, MessageReset(Fault.WORKER_LOST)))
        entries.append(event(len(entries) + 1, attempt, TurnStarted("p", "m")))
        entries.append(event(len(entries) + 1, attempt, MessageStart(str(UUID(int=attempt)))))
        for _ in range(deltas):
            entries.append(event(len(entries) + 1, attempt))
    entries.append(event(len(entries) + 1, attempts[-1][0], done()))
    return entries


def fold(entries):
    transcript = Transcript()
    for entry in entries:
        transcript.apply(entry.encoded)
    return transcript


@dataclass
class Client:
    """Believes what the protocol promises, and fails where it is broken."""

    seq: int = 0
    text: str = ""
    is_over: bool = False
    has_gap: bool = False
    is_fresh: bool = True
    types: list[str] = field(default_factory=list)

    def take(self, outgoing):
        frame = json.loads(outgoing.encoded)
        self.types.append(frame["type"])
        assert not self.is_over, "nothing comes after done"
        match frame["type"]:
            case "gap":
                assert 1 <= frame["from"] <= frame["to"]
                self.has_gap = True
            case "snapshot":
                self.seq, self.text, self.has_gap = frame["seq"], frame["content"], False
            case kind:
                assert not self.has_gap, "a gap is followed by its snapshot"
                is_done_again = kind == "done" and self.is_fresh and frame["seq"] == self.seq
                assert frame["seq"] == self.seq + 1 or is_done_again, "a silent hole"
                self.seq = frame["seq"]
                if kind == "content_delta":
                    self.text += frame["delta"]
                elif kind == "message_reset":
                    self.text = ""
                self.is_over = kind == "done"
        self.is_fresh = False


class World:
    """Redis and the row, with everything that may happen to them."""

    def __init__(self, entries):
        self.entries = entries
        self.told = 0
        self.log = []
        self.wire = []
        self.checkpoint = Transcript()
        self.log_is_readable = True
        self.on_pause = lambda _seconds: None

    def tell(self):
        """The worker appends and publishes its next event; a lost log it begins again with a snapshot."""
        if self.told == len(self.entries):
            return
        entry = self.entries[self.told]
        self.told += 1
        if entry.is_done():
            # Settled first, said afterwards: the row is terminal before anybody hears of it.
            self.checkpoint = fold(self.entries)
        if not self.log and self.told > 1:
            text = fold(self.entries[: self.told - 1])
            snapshot = Entry(text.attempt, text.seq, text.snapshot(SESSION, TURN, TS), is_snapshot=True)
            self._publish(snapshot)
        self._publish(entry)

    def _publish(self, entry):
        self.log.append(entry)
        self.wire.append(entry)

    def save(self):
        if self.told < len(self.entries) and self.row().done is None:
            self.checkpoint = fold(self.entries[: self.told])

    def trim(self, count):
        self.log = self.log[min(count, max(len(self.log) - 1, 0)) :]

    def lose_log(self):
        self.log = []

    def settle(self):
        """The row is written first: the last events may still be on their way to the log."""
        self.checkpoint = fold(self.entries)

    def row(self):
        text = self.checkpoint
        done = self.entries[-1] if text.seq == len(self.entries) else None
        return RowState(
            status=text.status,
            attempt=text.attempt,
            last_seq=max(text.seq, 1),
            text_seq=text.seq,
            message_id=text.message_id,
            content=text.content,
            reasoning=text.reasoning,
            done=None if done is None else done.encoded,
        )

    def answer(self, request):
        if isinstance(request, Pause):
            self.on_pause(request.seconds)
            return None
        if isinstance(request, ReadLog):
            return tail_of(reversed(self.log), request.after)[0] if self.log_is_readable else None
        return self.row()


def drive(asking, world, between=lambda: None):
    request = next(asking)
    while True:
        answer = world.answer(request)
        between()
        try:
            request = asking.send(answer)
        except StopIteration as end:
            return end.value


ACTIONS = st.lists(
    st.sampled_from(
        ["tell"] * 6 + ["hear"] * 6 + ["drop", "repeat", "late", "trim", "lose", "save", "silence", "settle"]
    ),
    max_size=60,
)


@settings(max_examples=400, deadline=None)
@given(
    st.integers(0, 8),
    st.none() | st.integers(0, 6),
    ACTIONS,
    ACTIONS,
    st.integers(0, 30),
    st.booleans(),
    st.lists(st.booleans(), max_size=20),
)
def test_every_reader_has_the_whole_text_whatever_is_lost(
    first, second, before, after, cursor, by_snapshot, stirs
):
    """I4: no silent hole, nothing twice, nothing after the end, and always an end."""
    entries = turn_of(first, second)
    world = World(entries)
    world.tell()
    for action in before:
        _happen(world, action)
    world.wire.clear()
    reader = Reader(world, cursor, stirs)
    reader.look(by_snapshot=by_snapshot)
    for action in after:
        if action == "silence":
            reader.look()
        for heard in _happen(world, action):
            reader.hear(heard)
    while world.told < len(entries):
        world.tell()
    for _ in range(3):
        reader.look()
    client = reader.client
    assert client.is_over
    assert client.text == fold(entries).content
    assert client.seq == len(entries)


class Reader:
    """A relay's side of one reader: live events when they are next, `catch_up` otherwise."""

    def __init__(self, world, cursor, stirs):
        self.world = world
        self.stirs = iter(stirs)
        self.position = Position(cursor, None)
        self.client = Client(cursor, _text(world.entries, cursor))

    def look(self, **options):
        if not self.position.is_over:
            asking = catch_up(self.position, WHICH, TS, **options)
            self.position, sent = drive(asking, self.world, self._stir)
            for outgoing in sent:
                self.client.take(outgoing)

    def hear(self, entry):
        verdict = judge(self.position, entry.seq, entry.attempt, is_snapshot=entry.is_snapshot)
        if self.position.is_over:
            assert verdict is not Verdict.NEXT
        elif verdict is Verdict.NEXT:
            self.client.take(Outgoing(entry.encoded, entry.seq))
            self.position = Position(entry.seq, entry.attempt, is_over=entry.is_done())
        elif verdict is Verdict.HOLE:
            self.look()

    def _stir(self):
        """The worker goes on between two reads."""
        if next(self.stirs, False):
            self.world.tell()


def _text(entries, cursor):
    return fold(entries[: min(cursor, len(entries))]).content


def _happen(world, action):
    """Do one thing to the world; return what the reader hears of it."""
    heard = []
    match action:
        case "tell":
            world.tell()
        case "hear":
            heard = world.wire[:1]
            del world.wire[:1]
        case "drop":
            del world.wire[:1]
        case "repeat":
            heard = world.wire[:1] * 2
        case "late":
            world.wire.reverse()
        case "trim":
            world.trim(3)
        case "lose":
            world.lose_log()
        case "save":
            world.save()
        case "settle":
            world.settle()
    return heard


def run(world, position, **options):
    client = Client(position.seq, _text(world.entries, position.seq))
    position, sent = drive(catch_up(position, WHICH, TS, **options), world)
    for outgoing in sent:
        client.take(outgoing)
    return position, client


def told(entries, count=None):
    world = World(entries)
    for _ in range(len(entries) if count is None else count):
        world.tell()
    return world


@pytest.mark.parametrize("cursor", range(8))
def test_a_resume_from_any_cursor_gets_exactly_what_is_missing(cursor):
    world = told(turn_of(5, None), 7)
    position, client = run(world, Position(cursor, None), row=world.row())
    assert (position.seq, client.seq) == (7, 7)
    assert client.types == ["turn_queued", "turn_started", "message_start", *["content_delta"] * 4][cursor:]


def test_the_event_that_was_lost_may_be_the_last():
    """A relay that waits for `done` on pub/sub alone waits for ever."""
    entries = turn_of(2, None)
    world = told(entries)
    position, client = run(world, Position(len(entries) - 1, 1))
    assert position.is_over
    assert client.types == ["done"]


def test_a_worker_that_died_between_commit_and_done_is_ended_by_the_row():
    entries = turn_of(2, None)
    world = told(entries)
    world.log.pop()
    _, client = run(world, Position(len(entries) - 1, 1))
    assert client.types == ["done"]


@pytest.mark.parametrize("missing", [1, 2, 4])
def test_a_turn_that_is_settled_before_its_last_events_are_logged_leaves_no_gap(missing):
    entries = turn_of(5, None)
    world = told(entries, len(entries) - missing)
    world.settle()
    world.on_pause = lambda _seconds: world.tell()  # the worker is slow, and tells one event in each pause
    position, client = run(world, Position(3, None), row=world.row())
    assert client.types == ["content_delta"] * 5 + ["done"]
    assert position.is_over


def test_last_events_that_never_come_are_waited_for_less_than_a_second():
    entries = turn_of(5, None)
    world = told(entries, 4)
    world.settle()
    waited = []
    world.on_pause = waited.append
    position, client = run(world, Position(3, None), row=world.row())
    assert position.is_over
    assert client.types[-3:] == ["gap", "snapshot", "done"]
    assert 0 < sum(waited) < 1


@pytest.mark.parametrize("cursor", [0, 3])
def test_a_log_that_is_gone_is_not_waited_for(cursor):
    entries = turn_of(5, None)
    world = told(entries)
    world.lose_log()
    world.on_pause = lambda _seconds: pytest.fail("nothing more can come")
    position, _ = run(world, Position(cursor, None), row=world.row())
    assert position.is_over


def test_a_turn_whose_log_expired_is_given_by_the_row():
    entries = turn_of(4, None)
    world = told(entries)
    world.lose_log()
    position, client = run(world, Position(2, None), row=world.row())
    assert client.types == ["gap", "snapshot", "done"]
    assert client.text == fold(entries).content
    assert position.is_over


def test_a_log_that_was_lost_goes_on_behind_a_gap_and_a_snapshot():
    entries = turn_of(6, None)
    world = told(entries, 5)
    world.lose_log()
    world.tell()
    world.tell()
    _, client = run(world, Position(3, 1))
    assert client.types == ["gap", "snapshot", "content_delta", "content_delta"]


def test_a_reader_that_had_all_before_the_log_was_lost_sees_no_gap():
    world = told(turn_of(6, None), 5)
    world.lose_log()
    world.tell()
    _, client = run(world, Position(5, 1))
    assert client.types == ["content_delta"]


def test_a_trimmed_log_is_said_and_not_skipped():
    """superset, dify: a subscriber that reads from what is left loses the beginning silently."""
    world = told(turn_of(8, None), 9)
    world.save()
    world.trim(5)
    _, client = run(world, Position(2, None), row=world.row())
    assert client.types == ["gap", "snapshot"]
    assert client.seq == 9


def test_the_first_events_are_not_lost_to_a_late_subscription():
    """Dify #40948 read from `$` after the task had started."""
    _, client = run(told(turn_of(3, None), 5), Position(0, None))
    assert client.types[0] == "turn_queued"


def test_a_snapshot_and_live_events_do_not_overlap():
    """LibreChat #14423: a delta that stood in the snapshot came again."""
    world = told(turn_of(5, None), 6)
    world.save()
    position, client = run(world, Position(0, None), by_snapshot=True)
    assert client.types == ["snapshot"]
    assert judge(position, 6, 1) is Verdict.SEEN
    assert judge(position, 7, 1) is Verdict.NEXT


@pytest.mark.parametrize("cursor", [100, 2**60])
@pytest.mark.parametrize("count", [4, None])
def test_a_cursor_from_the_future_is_reset_and_never_hangs(cursor, count):
    entries = turn_of(4, None)
    world = told(entries, count)
    position, client = run(world, Position(cursor, None), row=world.row())
    assert client.types[:2] == ["gap", "snapshot"]
    assert position.seq == (count or len(entries))
    assert client.is_over is (count is None)


def test_a_cursor_at_the_end_gets_done_again():
    entries = turn_of(1, None)
    world = told(entries)
    _, client = run(world, Position(len(entries), None), row=world.row())
    assert client.types == ["done"]


def test_an_attempt_that_numbers_again_from_a_checkpoint_resets_its_readers():
    """The log and the worker were lost together: what the older attempt said after the checkpoint is void."""
    world = told(turn_of(4, None), 3)
    world.save()
    for _ in range(3):
        world.tell()
    world.log = [event(4, 2, MessageReset(Fault.WORKER_LOST)), event(5, 2)]
    position = Position(6, 1)
    assert judge(position, 4, 2) is Verdict.HOLE
    reached, client = run(world, position)
    assert client.types == ["gap", "snapshot"]
    assert (reached.seq, reached.attempt, client.text) == (5, 2, "<2.5>")


def test_the_first_event_of_a_newer_attempt_is_read_from_the_log():
    """The one before it, under the reader's own number, may be what was lost on the way."""
    assert judge(Position(2, 0), 3, 1) is Verdict.NEXT
    assert judge(Position(6, 1), 7, 1) is Verdict.NEXT
    position = Position(6, 1)  # of a dead worker, and late
    assert judge(position, 7, 2) is Verdict.HOLE
    world = told(turn_of(4, None), 6)
    world.log += [event(6, 2, MessageReset(Fault.WORKER_LOST)), event(7, 2)]
    reached, client = run(world, position)
    assert (reached, client.types, client.text) == (Position(7, 2), ["gap", "snapshot"], "<2.7>")


@pytest.mark.parametrize("last", ["done", "the one before"])
def test_the_number_of_an_older_attempt_does_not_stand_for_the_row_s(last):
    """I5: a dead worker's text that came late has the number that the sweeper gave to the end."""
    entries = [
        *turn_of(2, None)[:-1],
        event(6, 2, TurnError(fault_error(Fault.WORKER_LOST, "lost"))),
        event(7, 2, done(TurnStatus.FAILED)),
    ]
    world = told(entries)
    world.lose_log()
    seq = 7 if last == "done" else 6
    position, sent = drive(catch_up(Position(seq, 1), WHICH, TS), world)
    assert [json.loads(outgoing.encoded)["type"] for outgoing in sent][-2:] == ["snapshot", "done"]
    assert position == Position(7, 2, is_over=True)


def test_numbers_that_a_newer_attempt_used_again_are_read_once():
    log = [event(1, 0, TurnQueued()), event(2, 1), event(3, 1), event(3, 2), event(4, 2)]
    tail, is_reached = tail_of(reversed(log), 1)
    assert is_reached
    assert [(entry.attempt, entry.seq) for entry in tail.entries] == [(1, 2), (2, 3), (2, 4)]


def test_a_row_that_lags_never_takes_a_reader_back():
    world = told(turn_of(7, None), 3)
    world.save()
    for _ in range(6):
        world.tell()
    world.trim(7)
    position, client = run(world, Position(5, 1))
    assert (position, client.types) == (Position(5, 1), [])


def test_an_attempt_that_has_passed_its_readers_again_resets_them_too():
    world = told(turn_of(4, None), 3)
    world.save()
    for _ in range(3):
        world.tell()
    world.log = [
        event(4, 2, MessageReset(Fault.WORKER_LOST)),
        *(event(n, 2) for n in (5, 6, 7, 8)),
    ]
    reached, client = run(world, Position(6, 1))
    assert (reached.seq, client.types, client.text) == (8, ["gap", "snapshot"], "<2.5><2.6><2.7><2.8>")


def during_the_row(world, position, step):
    """Catch up while `step` happens between the log's first reading and the row's."""
    asking = catch_up(position, WHICH, TS)
    request = next(asking)
    client = Client(position.seq, _text(world.entries, position.seq))
    while True:
        answer = world.answer(request)
        step()
        try:
            request = asking.send(answer)
        except StopIteration as end:
            reached, sent = end.value
            for outgoing in sent:
                client.take(outgoing)
            return reached, client


def test_done_that_is_said_while_the_row_is_read_comes_once():
    entries = turn_of(2, None)
    world = told(entries, len(entries) - 1)
    reached, client = during_the_row(world, Position(len(entries) - 1, 1), world.tell)
    assert (reached.is_over, client.types) == (True, ["done"])


def test_what_is_said_and_saved_while_the_row_is_read_is_no_gap():
    world = told(turn_of(6, None), 4)

    def tell_and_save():
        if world.told < 6:
            world.tell()
            world.save()

    _, client = during_the_row(world, Position(4, 1), tell_and_save)
    assert "gap" not in client.types
    assert client.types[0] == "content_delta"


def test_with_redis_away_a_cursor_past_the_checkpoint_waits_rather_than_going_back():
    # The row is seconds behind: a true cursor and an invented one look alike until Redis or the end decides.
    world = told(turn_of(6, None), 6)
    world.save()
    world.log_is_readable = False
    position, client = run(world, Position(100, None))
    assert (position.seq, client.types) == (100, [])


def test_with_redis_away_the_text_comes_from_the_row():
    world = told(turn_of(6, None), 6)
    world.save()
    world.log_is_readable = False
    position, client = run(world, Position(4, 1))
    assert client.types == ["gap", "snapshot"]
    assert position.seq == 6


def test_with_redis_away_the_end_comes_from_the_row():
    entries = turn_of(3, None)
    world = told(entries)
    world.log_is_readable = False
    position, client = run(world, Position(3, 1))
    assert client.types == ["gap", "snapshot", "done"]
    assert position.is_over


def test_a_reader_whose_row_and_log_are_away_waits():
    asking = catch_up(Position(3, 1), WHICH, TS)
    assert isinstance(next(asking), ReadLog)
    asking.send(None)
    with pytest.raises(StopIteration) as end:
        asking.send(None)
    assert end.value.value == (Position(3, 1), ())


@settings(deadline=None)
@given(st.integers(0, 12), st.integers(1, 10))
def test_reading_backwards_in_any_batches_gives_the_same_tail(after, batch):
    log = turn_of(3, 3)
    collected = []
    for start in range(0, len(log), batch):
        collected.extend(log[::-1][start : start + batch])
        tail, is_reached = tail_of(collected, after)
        if is_reached:
            break
    assert list(tail.entries) == [entry for entry in log if entry.seq > after]


def test_a_hole_in_the_log_is_not_stepped_over():
    assert follow(Position(1, 1), Tail([event(2, 1), event(4, 1)], event(1, 1))) is None


def test_what_a_gap_says_is_the_protocol():
    world = told(turn_of(4, None))
    world.lose_log()
    _, sent = drive(catch_up(Position(2, 1), WHICH, TS), world)
    gap = msgspec.json.decode(sent[0].encoded)
    assert gap == {"type": "gap", "session_id": str(SESSION), "turn_id": str(TURN), "from": 3, "to": 7}
    assert [outgoing.seq for outgoing in sent] == [None, 7, 8]
    assert [outgoing.event_type() for outgoing in sent] == [b"gap", b"snapshot", b"done"]
