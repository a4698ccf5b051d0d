"""A client of a relay that is played: it judges every frame by the protocol alone."""

import json
from collections import deque
from dataclasses import dataclass, field

from api.relay.connection import Connection
from api.relay.conversation import Conversation


class Wire:
    """A socket that takes everything."""

    def __init__(self):
        self.taken = bytearray()

    def send(self, data):
        self.taken += data
        return len(data)

    def shutdown(self, how):
        pass

    def close(self):
        pass


@dataclass
class Asked:
    """A subscription that the client sent."""

    after: int
    by_snapshot: bool


@dataclass
class Seen:
    """What a client may receive next of one turn."""

    seq: int
    is_over: bool = False
    has_gap: bool = False
    may_jump: bool = False
    is_fresh: bool = False
    """Nothing was received since the cursor was set: `done` comes even if the cursor is at the end."""


@dataclass
class Socket:
    """A client: judges every frame by the protocol alone."""

    wire: Wire
    connection: Connection
    conversation: Conversation
    asked: deque = field(default_factory=deque)
    seen: dict = field(default_factory=dict)
    due: set = field(default_factory=set)
    is_answered: bool = False

    def send(self, **fields):
        payload = json.dumps(fields).encode()
        assert len(payload) < 1 << 16
        size = bytes([0x80 | len(payload)]) if len(payload) < 126 else b"\xfe" + len(payload).to_bytes(2)
        self.conversation.receive(memoryview(b"\x81" + size + b"\0\0\0\0" + payload))

    def read(self):
        """Judge what has arrived."""
        data = self.wire.taken
        while data:
            size, start = data[1], 2
            if size >= 126:
                start = 4 if size == 126 else 10
                size = int.from_bytes(data[2:start])
            frame, is_text = bytes(data[start : start + size]), data[0] == 0x81
            del data[: start + size]
            if is_text:
                self.judge(json.loads(frame))

    def judge(self, frame):
        kind, turn = frame["type"], frame.get("turn_id")
        match kind:
            case "ping" | "caught_up" | "unsubscribed":
                return
            case "subscribed":
                asked = self.asked.popleft()
                self.is_answered = True
                if turn is not None:
                    self.seen[turn] = Seen(asked.after, may_jump=asked.by_snapshot, is_fresh=True)
                    self.due.add(turn)
                return
            case "refused":
                raise AssertionError(frame)
        seen = self.seen.setdefault(turn, Seen(0))
        assert not seen.is_over, f"{frame} after the end"
        if kind == "gap":
            assert frame["from"] <= seen.seq + 1 <= frame["to"] + 1, f"{frame} after {seen}"
            seen.has_gap = True
        elif kind == "snapshot":
            assert seen.has_gap or seen.may_jump, f"{frame} after {seen}"
            seen.seq, seen.has_gap, seen.may_jump = frame["seq"], False, False
        else:
            is_known_end = kind == "done" and seen.is_fresh and frame["seq"] == seen.seq
            assert frame["seq"] == seen.seq + 1 or is_known_end, f"{frame} after {seen}"
            seen.seq, seen.may_jump, seen.is_over = frame["seq"], False, kind == "done"
        seen.is_fresh = False
