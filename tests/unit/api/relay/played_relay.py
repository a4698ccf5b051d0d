"""A relay whose surroundings are played: the log, the rows and pub/sub, and clients that judge what they receive.

Everything from the clients' frames to the relay's is real. The event loop's time passes only when nothing is left
to do.
"""

import asyncio
from collections import deque
from datetime import UTC, datetime
from random import Random
from uuid import UUID

import pytest

from api.caller import Caller
from api.relay.connection import Connection
from api.relay.conversation import Conversation
from api.relay.delivery import Delivery
from api.relay.occurrences import Occurrences
from api.relay.places import Reader
from api.relay.store import TurnState
from shared.redis.names import events_channel
from shared.turn.events import ContentDelta, EventEncoder, TurnStarted, timestamp
from shared.turn.replay import Entry, tail_of
from shared.turn.transcript import Transcript
from shared.turn.turns import TurnStatus
from tests.ends import done
from tests.unit.api.relay.played_client import Asked, Socket, Wire

SESSION = UUID(int=1)
CHANNEL = events_channel(SESSION).encode()
TURNS = [UUID(int=number) for number in (11, 12, 13)]
SOCKETS = 2
CALLER = Caller(UUID(int=3), UUID(int=4), "service", None, None)
NOW = timestamp(datetime(2026, 1, 1, tzinfo=UTC))
PATIENCE_SECONDS = 120.0
"""Of the played time: several times the longest silence."""


class PlayedLoop(asyncio.SelectorEventLoop):
    """An event loop in which waiting takes no time, and which watches no socket."""

    def __init__(self):
        super().__init__()
        self._played = 0.0
        really = self._selector.select

        def select(seconds=None):
            self._played += seconds or 0.0
            return really(0)

        self._selector.select = select

    def time(self):
        return self._played

    def add_reader(self, fd, call, *arguments):
        pass

    def remove_reader(self, fd):
        pass


class Turn:
    """A turn with its log and its row."""

    def __init__(self, turn_id):
        self.turn_id = turn_id
        self.encoder = EventEncoder(SESSION, turn_id)
        self.text = Transcript()
        self.log = []
        self.done = None
        self.late = deque()

    def say(self, event):
        """Append an event to the log and return it."""
        encoded = self.encoder.encode(event, self.text.seq + 1, 1, NOW)
        self.text.apply(encoded)
        self.log.append(Entry(1, self.text.seq, encoded))
        return encoded

    def forget(self):
        """Lose the log; the worker of a running turn restarts it with a snapshot."""
        snapshot = self.text.snapshot(SESSION, self.turn_id, NOW)
        self.log = [] if self.done else [Entry(1, self.text.seq, snapshot, is_snapshot=True)]

    def state(self):
        is_over = self.done is not None
        return TurnState(
            turn_id=self.turn_id,
            session_id=SESSION,
            status=TurnStatus.COMPLETED if is_over else TurnStatus.RUNNING,
            attempt=1,
            last_seq=self.text.seq if is_over else 0,
            message_id=None,
            content=self.text.content if is_over else "",
            reasoning="",
            text_seq=self.text.seq if is_over else 0,
            done=self.done,
        )


class Service:
    """The relay's delivery with played surroundings; its steps are coroutines."""

    def __init__(self, random):
        self.random = random
        self.turns = {}
        self.subscription = None
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("api.relay.delivery.Subscription", self.play_subscription)
            patch.setattr("api.relay.reads.LogReader", lambda _: self)
            self.delivery = Delivery("redis://none", self, self, Occurrences())
        self.sockets = [self.open() for _ in range(SOCKETS)]

    # The store, and the pool that asks it

    async def ask(self, call, *arguments):
        await self.pause()
        answer = call(*arguments)
        await self.pause()
        return answer

    async def pause(self):
        for _ in range(self.random.randrange(4)):
            await asyncio.sleep(0)

    def session_is_visible(self, caller, session_id):
        return True

    def newest_turn(self, caller, session_id):
        return next(reversed(self.turns), None)

    def active_turn(self, caller, session_id):
        return next((turn_id for turn_id, turn in self.turns.items() if turn.done is None), None)

    def turns_since(self, caller, session_id, known):
        ids = list(self.turns)
        return ids[ids.index(known) + 1 :] if known else ids

    def turn(self, caller, turn_id):
        return self.turns[turn_id].state() if turn_id in self.turns else None

    def turns_ahead(self, seen):
        return [turn_id for turn_id in seen if self.turns[turn_id].done is not None]

    # The log and pub/sub

    def play_subscription(self, url, **calls):
        self.subscription = Subscription(**calls)
        return self.subscription

    async def tail(self, session_id, turn_id, after):
        await self.pause()
        log = list(self.turns[turn_id].log)
        await self.pause()
        return tail_of(reversed(log), after)[0]

    def close(self):
        pass

    # What happens

    def open(self):
        wire = Wire()
        connection = Connection(
            asyncio.get_running_loop(),
            wire,
            Reader(CALLER),
            heartbeat_seconds=15.0,
            most_age_seconds=3600.0,
            on_closing=self.delivery.forget,
            on_closed=lambda _: None,
            on_overflow=lambda: None,
        )
        conversation = Conversation(connection, self.delivery, self, self)
        connection.open(conversation)
        return Socket(wire, connection, conversation)

    def publish(self, turn, encoded):
        """Publish an event; whoever has subscribed to the session by now must get its turn to the end."""
        for socket in self.sockets:
            socket.read()
            if socket.is_answered and self.subscription.is_confirmed(CHANNEL):
                socket.due.add(str(turn.turn_id))
        self.subscription.publish(encoded)

    async def emit(self, number, fates):
        """Have a turn say something; a fate is whether it arrives, never, twice, or late."""
        turn = self.turns.setdefault(TURNS[number], Turn(TURNS[number]))
        if turn.done is not None:
            return
        for fate in fates:
            encoded = turn.say(ContentDelta(f"<{turn.text.seq}>") if turn.text.seq else TurnStarted("p", "m"))
            match fate:
                case "arrives":
                    self.publish(turn, encoded)
                case "twice":
                    self.publish(turn, encoded)
                    self.publish(turn, encoded)
                case "late":
                    turn.late.append(encoded)
            if fate == "arrives" and turn.late:
                self.publish(turn, turn.late.popleft())
        self.subscription.on_read()

    async def end(self, number, is_told):
        turn = self.turns.get(TURNS[number])
        if turn is None or turn.done is not None:
            return
        turn.done = turn.say(done())
        if is_told:
            self.publish(turn, turn.done)
            self.subscription.on_read()

    async def subscribe(self, which, number, place, by_snapshot):
        socket = self.sockets[which]
        named = None if number is None else self.turns.get(TURNS[number])
        if number is not None and named is None:
            return
        active = self.active_turn(CALLER, SESSION)
        at = named or (self.turns[active] if active else None)
        after = 0 if at is None or named is None else int(at.text.seq * place)
        socket.asked.append(Asked(after, by_snapshot))
        fields = {} if named is None else {"turn_id": str(named.turn_id)}
        replay = "snapshot" if by_snapshot else "events"
        socket.send(op="subscribe", session_id=str(SESSION), after=after, replay=replay, **fields)

    async def unsubscribe(self, which):
        socket = self.sockets[which]
        socket.send(op="unsubscribe", session_id=str(SESSION))
        await self.until(lambda: socket.conversation._doing is None)
        socket.read()
        socket.is_answered, socket.due, socket.seen = False, set(), {}

    async def reconnect(self, which):
        self.sockets[which].connection.drop()
        self.sockets[which] = self.open()

    async def forget(self, number):
        if (turn := self.turns.get(TURNS[number])) is not None:
            turn.forget()

    async def run(self, rounds):
        for _ in range(rounds):
            await asyncio.sleep(0)

    async def rest(self, seconds):
        self.delivery.check(asyncio.get_running_loop().time())
        await asyncio.sleep(seconds)

    async def lose(self):
        self.subscription.lose()

    async def come_back(self):
        self.subscription.come_back()

    def is_whole(self):
        """Return whether every client has had the end of every turn that it must get."""
        for socket in self.sockets:
            socket.read()
        return all(
            turn in socket.seen and socket.seen[turn].is_over
            for socket in self.sockets
            for turn in socket.due
        )

    async def settle(self):
        """Let every turn end, and judge what the clients have received in all."""
        await self.come_back()
        await self.until(lambda: all(socket.conversation._doing is None for socket in self.sockets))
        for number in range(len(TURNS)):
            await self.end(number, True)
        await self.until(self.is_whole)
        await asyncio.sleep(PATIENCE_SECONDS)
        assert self.is_whole()
        for socket in self.sockets:
            assert not socket.asked
            for turn, seen in socket.seen.items():
                assert seen.seq == self.turns[UUID(turn)].text.seq
            socket.connection.drop()
        await self.delivery.stop()

    async def until(self, condition):
        give_up_at = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while not condition():
            assert asyncio.get_running_loop().time() < give_up_at, "it did not happen"
            self.delivery.check(asyncio.get_running_loop().time())
            await asyncio.sleep(0.25)


class Subscription:
    """Pub/sub: loses what is published while it is not connected."""

    def __init__(self, *, on_message, on_read, on_confirmed):
        self.on_message, self.on_read, self.on_confirmed = on_message, on_read, on_confirmed
        self.wanted, self.confirmed, self.is_up = set(), set(), True

    def want(self, channel):
        self.wanted.add(channel)
        asyncio.get_running_loop().call_soon(self.confirm)

    def confirm(self):
        for channel in self.wanted - self.confirmed:
            if self.is_up:
                self.confirmed.add(channel)
                self.on_confirmed(channel)

    def drop(self, channel):
        self.wanted.discard(channel)
        self.confirmed.discard(channel)

    def is_confirmed(self, channel):
        return channel in self.confirmed

    def is_connected(self):
        return self.is_up

    def will_confirm(self):
        return self.is_up

    def publish(self, encoded):
        if CHANNEL in self.confirmed:
            self.on_message(CHANNEL, encoded)

    def lose(self):
        self.is_up = False
        self.confirmed.clear()

    def come_back(self):
        self.is_up = True
        self.confirm()


def play(seed, steps):
    """Play `steps`, let everything end, and judge what each client received."""

    async def go():
        service = Service(Random(seed))
        for name, *arguments in steps:
            await getattr(service, name)(*arguments)
            for socket in service.sockets:
                socket.read()
        await service.settle()

    with asyncio.Runner(loop_factory=PlayedLoop) as runner:
        runner.run(go())
