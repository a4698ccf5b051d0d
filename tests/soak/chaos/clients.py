"""What clients do, and the first history: everything that they received.

A user posts one turn after another, repeats requests that were not answered, stops some turns, deletes some
sessions, and reads with one reader or several. The load on the service follows from the number of users.
"""

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import Any, Final

import httpx

from tests.e2e.protocol_client import TERMINAL
from tests.soak.chaos.plan import TurnPlan, Way, plan_turn
from tests.soak.chaos.reader import BrokenPromiseError, LostError, Reader, refusal_of
from tests.soak.chaos.service import Service

TURN_SECONDS: Final = 180.0
"""From the post to the last reader's `done`: enough for three lost attempts and more."""
ACCEPT_SECONDS: Final = 90.0
"""How long a request is repeated; the longest outage is far shorter."""
AGAIN_SECONDS: Final = 0.3
TURNS_OF_SESSION: Final = 4
"""Short histories, since the prompt is not under test."""
UNPAID: Final = 402
PATIENT: Final = {"idempotency_in_progress", "unavailable", "rate_limited", "queue_full"}


class UnpaidError(Exception):
    """The organization's budget does not pay for the turn."""


@dataclass(slots=True)
class Told:
    """Everything that clients received of one turn."""

    plan: TurnPlan
    session_id: str
    turn_id: str = ""
    done: dict[str, Any] | None = None
    seq: int = 0
    is_stopped: bool = False
    is_deleted: bool = False
    is_unpaid: bool = False
    deltas: int = 0
    snapshots: int = 0
    gaps: int = 0
    resets: int = 0
    connections: int = 0
    stalls: int = 0
    seconds: float = 0.0
    violations: list[tuple[str, str]] = field(default_factory=list)

    def complain(self, kind: str, evidence: str) -> None:
        """Note a broken promise."""
        self.violations.append((kind, evidence))


@dataclass(slots=True)
class Clients:
    """All users of a run.

    Args:
        service: The service that they use.
        seed: Fixes the turns.
        turns: How many turns.
        users: Most turns at the same time.
        plan: Returns the plan of a turn, given the seed and the turn's number.
        first: The first turn's number.
        system_prompt: The system prompt of every session, if any.
    """

    service: Service
    seed: int
    turns: int
    users: int
    plan: Callable[[int, int], TurnPlan] = plan_turn
    first: int = 1
    system_prompt: str | None = None
    told: list[Told] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    finished: int = 0
    _numbers: Iterator[int] = field(default_factory=lambda: iter(()))

    async def run(self) -> None:
        """Run all turns to their ends."""
        self._numbers = iter(range(self.first, self.first + self.turns))
        async with asyncio.TaskGroup() as group:
            for number in range(self.users):
                group.create_task(self._be_user(number))

    async def _be_user(self, number: int) -> None:
        random = Random(f"user {self.seed} {number}")
        client = Requests(self.service.url, self.service.key, self.statuses)
        session_id, left = "", 0
        try:
            for turn_number in self._numbers:
                plan = self.plan(self.seed, turn_number)
                if not left:
                    session_id, left = "", random.randrange(1, TURNS_OF_SESSION + 1)
                told = Told(plan, session_id)
                self.told.append(told)
                await self._follow(client, told, f"user-{number}")
                session_id = told.session_id
                left = 0 if told.is_deleted or told.is_unpaid or told.violations else left - 1
                self.finished += 1
        finally:
            await client.close()

    async def _follow(self, client: "Requests", told: Told, user: str) -> None:
        """Run one turn to its end with all its readers."""
        loop = asyncio.get_running_loop()
        began = loop.time()
        readers: list[Reader] = []
        try:
            async with asyncio.timeout(TURN_SECONDS):
                if not told.session_id:
                    told.session_id = await client.make_session(user, self.system_prompt)
                readers += [
                    Reader(self.service.url, self.service.key, each, told.session_id)
                    for each in told.plan.readers
                ]
                if readers[0].plan.way is Way.AHEAD:
                    await readers[0].subscribe_ahead()
                await self._begin(client, told, readers)
                async with asyncio.TaskGroup() as group:
                    for reader in readers:
                        group.create_task(reader.run())
                    group.create_task(self._interfere(client, told))
        except TimeoutError:
            told.complain("no_done", f"after {TURN_SECONDS:g} s")
        except UnpaidError:
            told.is_unpaid = True
        except BrokenPromiseError as broken:
            told.complain("request", str(broken))
        told.seconds = loop.time() - began
        self._compare(told, readers)

    async def _begin(self, client: "Requests", told: Told, readers: list[Reader]) -> None:
        """Post the turn, and tell its readers its id."""
        first = readers[0] if told.plan.readers[0].way is Way.POST else None
        told.turn_id = await client.post_turn(told, first)
        for reader in readers:
            if reader.reading is None:
                reader.begin(told.turn_id)
        if told.plan.is_posted_twice:
            again = await client.post_turn(told, None)
            if again != told.turn_id:
                told.complain("posted_twice", f"the same key made {told.turn_id} and {again}")

    async def _interfere(self, client: "Requests", told: Told) -> None:
        plan = told.plan
        try:
            if plan.stop_after_seconds is not None:
                await asyncio.sleep(plan.stop_after_seconds)
                told.is_stopped = True
                await client.stop(told.turn_id)
            if plan.delete_after_seconds is not None:
                await asyncio.sleep(plan.delete_after_seconds)
                told.is_deleted = True
                await client.delete_session(told.session_id)
        except BrokenPromiseError as broken:
            told.complain("request", str(broken))

    def _compare(self, told: Told, readers: list[Reader]) -> None:
        """Gather what the readers have, and note where two received different things."""
        truth: dict[tuple[int, int], int] = {}
        for reader in readers:
            told.connections += reader.connections
            told.stalls += reader.stalls
            told.deltas += reader.deltas
            trail = f"{reader.plan.way.value}; {'; '.join(reader.trail)}"
            if reader.broken is not None:
                told.complain("stream", f"{reader.broken} [{trail}]")
            for number, checksum in reader.shown.items():
                if truth.setdefault(number, checksum) != checksum:
                    told.complain("two_truths", f"{number} differs between readers [{trail}]")
                    break
            reading = reader.reading
            if reading is None:
                continue
            for back in reading.went_back:
                told.complain("numbered_again", f"{back} [{trail}]")
            told.snapshots += len(reading.snapshots)
            told.resets += reading.resets
            told.gaps += sum(entry.startswith("gap") for entry in reader.trail)
            if reading.done is not None:
                if told.done is not None and comparable(told.done) != comparable(reading.done):
                    told.complain("two_truths", f"done differs: {told.done} and {reading.done} [{trail}]")
                told.done, told.seq = reading.done, reading.seq
            elif reader.broken is None:
                told.complain("no_done", f"a reader is at {reading.seq} [{trail}]")


def comparable(done: dict[str, Any]) -> dict[str, Any]:
    """Return the part of a `done` that must be the same for all readers: it may be written again from the row."""
    return {name: value for name, value in done.items() if name != "ts"}


class Requests:
    """A user's requests, each repeated until it is answered.

    Args:
        url: The service's address.
        key: The API key.
        statuses: Counts the responses, for the summary.
    """

    def __init__(self, url: str, key: str, statuses: Counter[str]) -> None:
        self._statuses = statuses
        self._client = httpx.AsyncClient(
            base_url=url,
            headers={"Authorization": f"Bearer {key}"},
            timeout=httpx.Timeout(20, connect=5),
            trust_env=False,
        )

    async def close(self) -> None:
        """Close its connections."""
        await self._client.aclose()

    async def make_session(self, user: str, system_prompt: str | None = None) -> str:
        """Make a session; one whose response was lost stays empty."""
        asked = {"user": user, "system_prompt": system_prompt}
        answer = await self._until({201}, "POST", "/v1/sessions", json=asked)
        return str(answer.json()["id"])

    async def post_turn(self, told: Told, reader: Reader | None) -> str:
        """Post a turn until it is accepted, and return its id; `reader` reads the stream of the first response.

        Raises:
            UnpaidError: The budget does not pay for it, which the plan allows.
        """
        plan = told.plan
        path = f"/v1/sessions/{told.session_id}/turns"
        more = {
            "json": {
                "content": plan.content,
                "recovery": plan.recovery,
                "max_output_tokens": plan.max_output_tokens,
            },
            "headers": {"Idempotency-Key": plan.idempotency_key},
        }
        if reader is not None:
            with suppress(httpx.HTTPError, LostError):
                turn_id = await self._post_and_read(path, more, reader)
                if turn_id:
                    return turn_id
            if reader.reading is not None:
                return reader.reading.turn_id
        wanted = {200, 202, UNPAID} if plan.may_lack_money else {200, 202}
        answer = await self._until(wanted, "POST", path, **more)
        if answer.status_code == UNPAID:
            raise UnpaidError
        return str(answer.json()["id"])

    async def _post_and_read(self, path: str, more: dict[str, Any], reader: Reader) -> str:
        headers = {**more["headers"], "Accept": "text/event-stream"}
        async with self._client.stream("POST", path, json=more["json"], headers=headers) as answer:
            self._statuses[f"POST stream {answer.status_code}"] += 1
            if answer.status_code != 200:
                return ""
            turn_id = answer.headers["Location"].rpartition("/")[2]
            reader.begin(turn_id)
            reader.connections += 1
            await reader.read_answer(answer)
            return turn_id

    async def stop(self, turn_id: str) -> None:
        """Ask for a Stop."""
        answer = await self._until({200, 202}, "POST", f"/v1/turns/{turn_id}/stop", json={})
        if answer.status_code == 200 and answer.json()["status"] not in TERMINAL:
            raise BrokenPromiseError(f"a stop was answered 200 with {answer.text}")

    async def delete_session(self, session_id: str) -> None:
        """Delete a session."""
        await self._until({204}, "DELETE", f"/v1/sessions/{session_id}")

    async def _until(self, wanted: set[int], method: str, path: str, **more: Any) -> httpx.Response:
        """Repeat a request until it gets a wanted status; any other response than "later" breaks a promise."""
        give_up_at = asyncio.get_running_loop().time() + ACCEPT_SECONDS
        while asyncio.get_running_loop().time() < give_up_at:
            try:
                answer = await self._client.request(method, path, **more)
            except httpx.HTTPError as error:
                self._statuses[f"{method} {type(error).__name__}"] += 1
            else:
                self._statuses[f"{method} {answer.status_code}"] += 1
                if answer.status_code in wanted:
                    return answer
                if code_of(answer) not in PATIENT:
                    refused = refusal_of(answer.status_code, f"{method} {path}: {answer.text}")
                    if isinstance(refused, BrokenPromiseError):
                        raise refused
            await asyncio.sleep(AGAIN_SECONDS)
        raise BrokenPromiseError(f"{method} {path}: not answered for {ACCEPT_SECONDS:g} s")


def code_of(answer: httpx.Response) -> str:
    """Return the problem's code; empty if the response is not a problem."""
    try:
        return str(answer.json().get("code", ""))
    except (ValueError, AttributeError):
        return ""
