"""A provider that plays given steps, and a channel that records its calls."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import msgspec

from shared.turn.events import EventType
from worker.providers.provider import Capabilities


def shown(event):
    """Return an event's fields; as on the wire, without those that a later version added and that say nothing."""
    own = msgspec.structs.asdict(event)
    added = {field.name for field in msgspec.structs.fields(event) if not field.required}
    return {name: value for name, value in own.items() if name not in added or value}


class Tape:
    """A channel that records its calls."""

    def __init__(self) -> None:
        self.told: list[tuple] = []
        self.discarded = False
        self.calls = 0
        self.noted: list[tuple] = []

    def note_call(self, *told):
        self.calls += not told
        self.noted += [told] if told else []

    def delta(self, text, *, reasoning):
        self.told.append(("reasoning" if reasoning else "content", text))

    def event(self, event):
        self.told.append((EventType(event.__struct_config__.tag), shown(event)))

    def fence(self):
        self.discarded = True

    def text_so_far(self):
        return 7, "".join(text for kind, text in self.told if kind == "content"), ""


class Playing:
    """A provider that plays steps: a batch, an error to raise, or an event to wait for."""

    name = "scripted"
    model = "m"

    def __init__(self, *steps, capabilities=None, sends=True, connects: asyncio.Event | None = None) -> None:
        self.steps = steps
        self.capabilities = capabilities or Capabilities()
        self.sends = sends
        self.connects = connects
        self.opened = asyncio.Event()
        self.closed = 0

    @asynccontextmanager
    async def stream(self, prompt, *, on_sent: Callable[[], None] | None = None):
        self.opened.set()
        try:
            if self.connects is not None:
                await self.connects.wait()
            if self.sends and on_sent is not None:
                on_sent()
            yield self._batches()
        finally:
            self.closed += 1

    async def _batches(self) -> AsyncIterator[list]:
        for step in self.steps:
            match step:
                case Exception():
                    raise step
                case asyncio.Event():
                    await step.wait()
                case _:
                    yield step


class Ahead(asyncio.SelectorEventLoop):
    """A loop whose clock a test can advance."""

    seconds_ahead = 0.0

    def time(self):
        return super().time() + self.seconds_ahead
