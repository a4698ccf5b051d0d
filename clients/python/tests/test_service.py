"""Both clients against a real service: real processes, real connections, and what cuts them."""

import asyncio
import contextlib
import gc
import os
import signal
import subprocess
import sys
import textwrap
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from itertools import islice
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest
from turnkeeper_client import (
    Answer,
    AsyncClient,
    BudgetExceededError,
    Client,
    ContentDelta,
    Done,
    Event,
    ForbiddenError,
    Gap,
    IdempotencyConflictError,
    Limits,
    NotFoundError,
    NotSupportedOnProviderError,
    Piece,
    RateLimitedError,
    RetryPolicy,
    SessionBusyError,
    Snapshot,
    StreamLostError,
    TimeLimitError,
    TurnEndedError,
    TurnQueued,
    UnauthorizedError,
    ValidationFailedError,
)
from turnkeeper_client.address import Address

from clients.python.tests.conftest import EAGER
from clients.python.tests.cutting import Cuts, cutting
from tests.e2e.conftest import Service
from tests.e2e.protocol_client import LIMIT_SECONDS, Api, sha256, wait_until
from tests.faults.proxy import Moment, Proxy

CUTS = 50
ENDLESS = "[[tokens=3000 rate=5]]"
ENDLESS_AND_BRISK = "[[tokens=100000 rate=90 jitter=0.3]] read me"
LONG = 1000
"""Characters of a text; some two hundred events where nothing is slow."""
WAYS = ["websocket", "ticket", "sse"]


@pytest.fixture
def session_id(client: Client) -> str:
    return client.create_session(user="alice").id


def through(stack: Service, proxy: Proxy, **options: object) -> Client:
    """A client whose every connection goes through the proxy."""
    return Client(
        f"http://127.0.0.1:{proxy.port}", stack.key(), **{"policy": EAGER, "trust_env": False, **options}
    )


def check(events: list[Event], text: str, turn_id: str, api: Api) -> None:
    """What was read is the whole turn, each event once, and the text is the stored one."""
    numbers = [each.seq for each in events if not isinstance(each, Gap | Snapshot)]
    assert numbers == list(range(1, len(numbers) + 1))
    assert isinstance(events[-1], Done)
    assert events[-1].content_sha256 == sha256(text)
    assert text == "".join(each.delta for each in events if isinstance(each, ContentDelta))
    assert text == api.answer_to(api.final(turn_id))
    assert len(text) > LONG


def await_long_text(api: Api, turn_id: str) -> None:
    """Wait until a turn's text is long enough for `check`."""
    wait_until(
        lambda: sum(len(each.get("delta", "")) for each in api.page(turn_id)["data"]) > LONG, "a long text"
    )


# --- cuts --------------------------------------------------------------------------------------------


@contextlib.contextmanager
def stopped_once_cut(api: Api, turn_id: str, cuts: Cuts) -> Iterator[None]:
    """Stop a turn when all cuts are made: it lasts as long as they take, on whatever machine."""

    def stop() -> None:
        assert cuts.all_made.wait(2 * LIMIT_SECONDS)
        await_long_text(api, turn_id)
        api.stop(turn_id)

    with ThreadPoolExecutor(1) as pool:
        stopping = pool.submit(stop)
        yield
        stopping.result(LIMIT_SECONDS)
    assert cuts.made >= cuts.wanted


@pytest.mark.parametrize("via", WAYS)
def test_an_answer_that_is_cut_fifty_times_is_whole(
    stack: Service, api: Api, proxy: Proxy, session_id: str, via: str
):
    turn_id = api.turn(session_id, ENDLESS_AND_BRISK)
    with (
        through(stack, proxy, via=via) as client,
        cutting(proxy, CUTS, seed=1) as cuts,
        stopped_once_cut(api, turn_id, cuts),
        client.stream_turn(turn_id) as stream,
    ):
        events = list(stream)
    check(events, stream.text, turn_id, api)
    assert stream.connections > CUTS // 3
    assert stream.mended == 0


@pytest.mark.parametrize("via", ["websocket", "sse"])
def test_an_answer_that_is_cut_fifty_times_is_whole_for_the_asynchronous_client(
    stack: Service, api: Api, proxy: Proxy, session_id: str, via: str
):
    turn_id = api.turn(session_id, ENDLESS_AND_BRISK)

    async def read() -> tuple[list[Event], str]:
        events = []
        async with (
            AsyncClient(
                f"http://127.0.0.1:{proxy.port}", stack.key(), policy=EAGER, via=via, trust_env=False
            ) as client,
            client.stream_turn(turn_id) as stream,
        ):
            async for event in stream:
                events.append(event)
            assert stream.connections > CUTS // 3
            return events, stream.text

    with cutting(proxy, CUTS, seed=2) as cuts, stopped_once_cut(api, turn_id, cuts):
        events, text = asyncio.run(read())
    check(events, text, turn_id, api)


def test_a_session_that_is_cut_at_random_is_read_turn_after_turn(stack: Service, api: Api, proxy: Proxy):
    session_id = api.session(user="alice")
    # Runs until the watching has begun and was cut often; all the others come after it.
    turns = [api.turn(session_id, ENDLESS_AND_BRISK)]
    texts: dict[str, list[str]] = {}
    over: list[str] = []
    numbers: dict[str, list[int]] = {}
    is_stopped = False

    def ask() -> None:
        for number in range(11):
            content = f"[[tokens=40 rate=60]] turn {number}"
            turns.append(api.turn(session_id, content, multitask_strategy="enqueue"))

    with through(stack, proxy) as client, client.stream_session(session_id, limit_seconds=200) as stream:
        asking = threading.Thread(target=ask)
        asking.start()
        with cutting(proxy, 40, seed=3) as cuts:
            for event in stream:
                if cuts.amid_streams > 5 and not is_stopped:
                    api.stop(turns[0])
                    is_stopped = True
                if isinstance(event, Gap | Snapshot):
                    continue
                numbers.setdefault(event.turn_id, []).append(event.seq)
                if isinstance(event, ContentDelta):
                    texts.setdefault(event.turn_id, []).append(event.delta)
                if isinstance(event, Done):
                    over.append(event.turn_id)
                if len(over) == 12:
                    break
        asking.join(LIMIT_SECONDS)
    assert sorted(over) == sorted(turns)
    for turn_id in turns:
        assert numbers[turn_id] == list(range(1, len(numbers[turn_id]) + 1))
        assert "".join(texts[turn_id]) == api.answer_to(api.final(turn_id))


def test_turns_that_ended_while_the_connection_was_away_are_made_up_for(
    stack: Service, api: Api, proxy: Proxy
):
    session_id = api.session(user="alice")
    with through(stack, proxy) as client, client.stream_session(session_id, limit_seconds=200) as stream:
        first = api.turn(session_id, ENDLESS)
        event = next(stream)
        # Stopped when it is watched, for one that was over before would be nobody's business.
        api.stop(first)
        while not isinstance(event, Done):
            event = next(stream)
        assert event.turn_id == first
        with proxy.refusing():
            missed = [api.ask(f"[[tokens=3]] missed {number}", session_id)["id"] for number in range(3)]
        seen = []
        while len(seen) < 3:
            event = next(stream)
            if isinstance(event, Done):
                seen.append(event.turn_id)
        assert seen == missed


def test_a_relay_that_is_killed_amid_the_stream_is_not_noticed_in_the_text(
    stack: Service, api: Api, client: Client, session_id: str
):
    turn_id = api.turn(session_id, ENDLESS_AND_BRISK)
    pids = stack.pids("relay")
    events = []
    is_stopped = False
    stream = client.stream_turn(turn_id)
    for event in stream:
        events.append(event)
        if len(events) == 30:
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
        # The turn lasts for as long as it takes to come back, and then for a while.
        if len(stream.text) > LONG and stream.connections > 1 and not is_stopped:
            api.stop(turn_id)
            is_stopped = True
    check(events, stream.text, turn_id, api)
    assert stream.connections > 1
    stack.await_pids("relay", pids)


def test_an_event_stream_that_is_cut_is_no_end_for_its_reader(stack: Service, api: Api, session_id: str):
    turn_id = api.turn(session_id, ENDLESS_AND_BRISK)
    # A kept connection is served by the process that has it, whatever is asked for.
    pids = {kind: stack.pids(kind) for kind in ("web", "relay")}
    with Client(stack.url, stack.key(), via="sse", policy=EAGER, trust_env=False) as client:
        events, is_stopped = [], False
        stream = client.stream_turn(turn_id)
        for event in stream:
            events.append(event)
            if len(events) == 30:
                for pid in [*pids["web"], *pids["relay"]]:
                    os.kill(pid, signal.SIGKILL)
            if stream.connections > 1 and len(events) > 60 and not is_stopped:
                stack.api().stop(turn_id)
                is_stopped = True
        check(events, stream.text, turn_id, stack.api())
        assert stream.connections > 1
    for kind, gone in pids.items():
        stack.await_pids(kind, gone)


def test_a_turn_whose_answer_was_lost_with_its_web_process_is_posted_again_and_is_one(
    stack: Service, api: Api, proxy: Proxy, session_id: str
):
    pids = stack.pids("web")
    # Longer than two new processes take, so that only the cut makes it post again.
    patient = replace(EAGER, answer_seconds=2 * LIMIT_SECONDS, limit_seconds=3 * LIMIT_SECONDS)
    with through(stack, proxy, policy=patient) as client, ThreadPoolExecutor(1) as pool:
        with proxy.trap(b"/turns HTTP", Moment.AFTER) as trap:
            posting = pool.submit(client.create_turn, session_id, "[[tokens=3]] once")
            trap.await_sprung()
            for pid in pids:
                os.kill(pid, signal.SIGKILL)
            stack.await_pids("web", pids)
            # The connection whose answer is held is cut now: only another post can return.
            assert not posting.done()
        turn = posting.result(2 * LIMIT_SECONDS)
        assert [each.id for each in client.list_turns(session_id).data] == [turn.id]
        assert trap.held[0].is_cut
    assert api.final(turn.id)["status"] == "completed"


def test_an_endless_cut_ends_in_time_and_the_stream_goes_on_from_its_cursor(
    stack: Service, api: Api, proxy: Proxy, client: Client, session_id: str
):
    turn_id = api.turn(session_id, ENDLESS_AND_BRISK)
    hasty = RetryPolicy(first_pause_seconds=0.05, longest_pause_seconds=0.2, reconnect_seconds=1)
    with through(stack, proxy, policy=hasty) as cut:
        stream = cut.stream_turn(turn_id)
        first = [next(stream) for _ in range(20)]
        with proxy.refusing(), pytest.raises(StreamLostError) as raised:
            first.extend(stream)  # keeps what came before the error
    assert raised.value.after == first[-1].seq == stream.seq
    await_long_text(api, turn_id)
    api.stop(turn_id)
    rest = client.stream_turn(turn_id, after=stream.seq, text=stream.text)
    events = [*first, *rest]
    check(events, rest.text, turn_id, api)


# --- asking ------------------------------------------------------------------------------------------


def test_one_line_asks_and_gets_the_finished_answer(client: Client, api: Api):
    answer = client.ask("[[tokens=40]] What is a turn?", user="alice")
    assert isinstance(answer, Answer)
    assert answer.text == str(answer) == api.answer_to(api.get_turn(answer.turn.id))
    assert (answer.turn.status, answer.turn.finish_reason) == ("completed", "stop")
    assert answer.turn.usage.output_tokens > 0
    assert answer.turn.cost_usd > 0
    again = client.ask("[[tokens=5]] And what is Stop?", session_id=answer.session_id)
    assert again.session_id == answer.session_id


@pytest.mark.parametrize("via", ["auto", *WAYS])
def test_an_answer_comes_in_pieces_that_make_its_text(stack: Service, via: str):
    with Client(stack.url, stack.key(), via=via, policy=EAGER, trust_env=False) as client:
        stream = client.ask_stream(ENDLESS_AND_BRISK, user="alice")
        # They come while the answer is made, which is not over before it is stopped.
        pieces = list(islice(stream, 6))
        client.stop_turn(stream.turn_id)
        pieces += stream
        assert all(isinstance(piece, Piece) and not piece.replaces for piece in pieces)
        assert "".join(pieces) == stream.text == stream.answer.text
        assert list(client.stream_text(stream.turn_id)) != []


@pytest.mark.parametrize("via", WAYS)
def test_a_service_on_this_machine_is_reached_without_the_environments_proxy(
    stack: Service, via: str, monkeypatch: pytest.MonkeyPatch
):
    for name in ("http_proxy", "https_proxy", "all_proxy", "ws_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
        monkeypatch.setenv(name.upper(), "http://127.0.0.1:9")
    monkeypatch.delenv("NO_PROXY", raising=False)
    monkeypatch.delenv("no_proxy", raising=False)
    for url in (stack.url, stack.url.replace("127.0.0.1", "localhost")):
        with Client(url, stack.key(), via=via, policy=EAGER) as client:
            assert client.ask("[[tokens=3]] hello", user="alice").text
    assert not Address("http://127.0.0.1.evil.example", "k").is_local()
    assert Address("http://[::1]:8080", "k").is_local()


def test_text_of_an_attempt_that_broke_off_is_replaced(client: Client, api: Api, session_id: str):
    # The provider breaks off once; the next attempt answers.
    shown, resets = "", 0
    stream = client.ask_stream("[[tokens=40 rate=200 cut=10 fail_times=1]] hello", session_id=session_id)
    for piece in stream:
        resets += piece.replaces
        shown = piece if piece.replaces else shown + piece
    assert shown == stream.text == api.answer_to(api.get_turn(stream.turn_id))
    assert resets >= 1
    assert stream.attempt >= 2


def test_a_turn_that_fails_is_an_error_that_has_what_was_kept(client: Client, session_id: str):
    with pytest.raises(TurnEndedError) as raised:
        client.ask("[[status=400]] no", session_id=session_id)
    assert raised.value.answer.turn.error["code"] == "provider_rejected"
    assert "provider_rejected" in str(raised.value)


def test_the_asynchronous_client_asks_streams_lists_and_waits(stack: Service):
    async def talk() -> None:
        async with AsyncClient(stack.url, stack.key(), policy=EAGER, trust_env=False) as client:
            answer = await client.ask("[[tokens=20]] one", user="alice")
            stream = client.ask_stream("[[tokens=20 rate=200]] two", session_id=answer.session_id)
            assert "".join([piece async for piece in stream]) == stream.text == stream.answer.text
            contents = [
                each.content async for each in client.every(client.list_messages, answer.session_id, limit=1)
            ]
            assert contents[1::2] == [answer.text, stream.text]
            turn = await client.create_turn(answer.session_id, "[[tokens=5]] three")
            assert (await client.wait_for_turn(turn.id)).status == "completed"
            assert (await client.stream_turn(turn).until_done()).status == "completed"
            with pytest.raises(NotFoundError):
                await client.get_session("nothing")

    asyncio.run(talk())


# --- stopping and refusals ---------------------------------------------------------------------------


def test_a_stop_ends_the_stream_with_the_text_that_was_kept(client: Client, api: Api, session_id: str):
    stream = client.ask_stream(ENDLESS, session_id=session_id)
    next(stream)
    client.stop_turn(stream.turn_id, wait_ms=10_000)
    stopped = client.wait_for_turn(stream.turn_id)
    assert (stopped.status, stopped.stop_reason) == ("stopped", "user")
    stream.until_done()
    assert stream.answer.turn.status == "stopped"
    assert stream.text == api.answer_to(api.get_turn(stream.turn_id))
    assert client.stop_turn(stream.turn_id).status == "stopped"


def test_a_busy_session_says_which_turn_runs(client: Client, session_id: str):
    turn = client.create_turn(session_id, ENDLESS)
    with pytest.raises(SessionBusyError) as raised:
        client.create_turn(session_id, "second")
    assert raised.value.members["active_turn_id"] == turn.id
    client.stop_turn(turn.id, wait_ms=10_000)


def test_a_key_of_ones_own_makes_one_turn_and_refuses_another_body(client: Client, session_id: str):
    key = uuid.uuid4().hex
    first = client.create_turn(session_id, "[[tokens=3]] a", idempotency_key=key)
    assert client.create_turn(session_id, "[[tokens=3]] a", idempotency_key=key).id == first.id
    with pytest.raises(IdempotencyConflictError):
        client.create_turn(session_id, "[[tokens=3]] b", idempotency_key=key)
    client.wait_for_turn(first.id)


@pytest.mark.parametrize("via", WAYS)
def test_a_wrong_key_is_said_at_once_everywhere(stack: Service, api: Api, via: str):
    turn_id = api.ask("[[tokens=3]] x")["id"]
    with Client(stack.url, "tk_" + "0" * 40, via=via, trust_env=False) as stranger:
        with pytest.raises(UnauthorizedError):
            stranger.get_turn(turn_id)
        with pytest.raises(UnauthorizedError):
            next(stranger.stream_turn(turn_id))
        with pytest.raises(UnauthorizedError):
            next(stranger.stream_session("nothing")) if via != "sse" else stranger.ask("x")


def test_a_turn_that_is_not_there_is_not_found(client: Client):
    with pytest.raises(NotFoundError):
        client.stream_turn("0199f000-0000-7000-8000-000000000000").until_done()


def test_a_field_that_is_wrong_is_named(client: Client, session_id: str):
    with pytest.raises(ValidationFailedError) as raised:
        client.create_turn(session_id, "x", max_output_tokens=0)
    assert raised.value.errors[0]["pointer"] == "/max_output_tokens"
    assert raised.value.request_id


def test_a_role_that_may_not_is_forbidden_and_no_tools_means_not_supported(client: Client, session_id: str):
    with pytest.raises(ForbiddenError):
        client.get_budget()
    for call in (client.pause_session, client.approve_plan, client.abort_plan):
        with pytest.raises(NotSupportedOnProviderError):
            call(session_id)


def test_budgets_rates_usage_ledger_and_keys_are_an_admins(stack: Service):
    with Client(stack.url, stack.key("admin"), policy=RetryPolicy(tries=1), trust_env=False) as admin:
        try:
            answer = admin.ask("[[tokens=10]] what does it cost", user="alice")
            (row,) = admin.list_ledger(turn_id=answer.turn.id).data
            assert (row.cost_usd, row.usage) == (answer.turn.cost_usd, answer.turn.usage)
            assert (row.kind, row.corrects, row.reported) == ("usage", None, None)
            table = b"".join(admin.download_ledger(turn_id=answer.turn.id)).decode()
            assert answer.turn.id in table
            assert table.count("\n") == 2
            assert admin.get_usage(group_by="user").totals.cost_usd >= answer.turn.cost_usd
            assert admin.put_budget(Limits(daily_usd=Decimal("0.000001"))).daily_usd == Decimal("0.000001")
            today = admin.get_budget().day
            # Unless midnight was between them.
            is_of_today = answer.turn.queued_at >= today.resets_at - timedelta(days=1)
            assert today.spent_usd >= answer.turn.cost_usd or not is_of_today
            with pytest.raises(BudgetExceededError) as refused:
                admin.ask("more", session_id=answer.session_id)
            assert refused.value.status == 402
            assert refused.value.members["period"] == "day"
            admin.put_budget(Limits(turns_per_minute_per_user=0))
            with pytest.raises(RateLimitedError) as limited:
                admin.ask("more", session_id=answer.session_id)
            assert limited.value.status == 429
            assert limited.value.retry_after is None or limited.value.retry_after > 0
            key = admin.create_key("user", user="carol", name="hers")
            assert key.key not in repr(key)
            assert key.id in {each.id for each in admin.every(admin.list_keys, limit=2)}
            with Client(stack.url, key.key, trust_env=False) as carol:
                assert carol.create_session().user == "carol"
            admin.revoke_key(key.id)
        finally:
            admin.put_budget(Limits())


def test_an_admin_stops_everything_that_its_organization_runs(stack: Service, client: Client):
    with Client(stack.url, stack.key("admin"), trust_env=False) as admin:
        with pytest.raises(ForbiddenError):
            client.stop_organization()
        turn = admin.create_turn(admin.create_session(user="alice").id, "[[tokens=400 rate=5]] for long")
        with admin.stream_turn(turn.id) as stream:
            for event in stream:
                if isinstance(event, ContentDelta):
                    break
            assert admin.stop_organization(reason="a test").running == 1
            *_, last = stream
        assert isinstance(last, Done)
        assert (last.status, last.stop_reason) == ("stopped", "user")
        assert (admin.stop_organization().queued, admin.stop_organization().running) == (0, 0)


def test_a_rate_limit_that_is_over_too_late_is_said_with_its_time(stack: Service):
    policy = RetryPolicy(limit_seconds=20)
    with Client(stack.url, stack.key("admin"), policy=policy, trust_env=False) as admin:
        session = admin.create_session(user=f"dora-{uuid.uuid4().hex}")
        try:
            admin.put_budget(Limits(turns_per_minute_per_user=1))
            admin.ask("[[tokens=3]] one", session_id=session.id)
            with pytest.raises(RateLimitedError) as limited:
                admin.ask("[[tokens=3]] two", session_id=session.id)
            # Longer than the caller would wait for: said at once, with the time.
            assert 20 < limited.value.retry_after <= 60
        finally:
            admin.put_budget(Limits())


def test_a_limit_of_turns_at_once_is_waited_out(stack: Service, session_id: str):
    policy = replace(EAGER, tries=1000)
    with Client(stack.url, stack.key("admin"), policy=policy, trust_env=False) as admin:
        for turn in admin.every(admin.list_turns, session_id):
            admin.stop_turn(turn.id, wait_ms=10_000)
        try:
            admin.put_budget(Limits(max_concurrent_turns=1))
            first = admin.create_turn(session_id, "[[tokens=60 rate=60]] one")
            answer = admin.ask("[[tokens=3]] two", user="bob")
            assert admin.get_turn(first.id).finished_at <= answer.turn.started_at
        finally:
            admin.put_budget(Limits())


def test_sessions_are_changed_found_flagged_and_closed(client: Client, stack: Service):
    word = uuid.uuid4().hex
    session = client.create_session(user="alice", title=f"About {word}", metadata={"a": 1})
    assert client.search_sessions(word).data[0].matched
    assert client.update_session(session.id, metadata={"a": 2}).metadata == {"a": 2}
    assert client.flag_session(session.id, reason="look").flagged
    with Client(stack.url, stack.key("admin"), trust_env=False) as admin:
        assert not admin.unflag_session(session.id).flagged
    assert session.id in {each.id for each in client.every(client.list_sessions, user="alice")}
    client.close_session(session.id)
    assert client.get_session(session.id).status == "closed"
    assert client.get_health().status == "ok"
    assert client.get_readiness().checks["postgres"].ok
    assert client.get_openapi()["openapi"].startswith("3.1")


def test_a_page_of_events_can_be_read_without_a_stream(client: Client, session_id: str):
    turn = client.ask("[[tokens=10]] x", session_id=session_id).turn
    page = client.list_events(turn.id)
    assert page.done
    assert [each["seq"] for each in page.data] == list(range(1, page.last_seq + 1))


# --- nothing stays open ------------------------------------------------------------------------------


def connections_to(url: str) -> set[int]:
    """This process' connections to the service, by their own ports."""
    port = urlsplit(url).port
    return {
        each.laddr.port
        for each in psutil.Process().net_connections("tcp")
        if each.raddr and each.raddr.port == port
    }


@pytest.mark.parametrize("via", WAYS)
def test_a_stream_that_is_left_closes_its_connection(stack: Service, api: Api, via: str):
    session_id = api.session(user="alice")
    turn_id = api.turn(session_id, ENDLESS)
    api.close()
    gc.collect()
    others, threads = connections_to(stack.url), set(threading.enumerate())

    def leave_the_loop(client: Client) -> None:
        for _ in client.stream_turn(turn_id):
            break

    def leave_the_block(client: Client) -> None:
        with client.stream_turn(turn_id) as stream:
            next(stream)

    def fail(client: Client) -> None:
        with contextlib.suppress(ZeroDivisionError):
            for _ in client.stream_turn(turn_id):
                raise ZeroDivisionError

    leaving: list[Callable[[Client], None]] = [leave_the_loop, leave_the_block, fail]
    with Client(stack.url, stack.key(), via=via, trust_env=False) as client:
        for leave in leaving:
            leave(client)
    wait_until(lambda: connections_to(stack.url) <= others, "the connections to be closed")
    wait_until(lambda: set(threading.enumerate()) <= threads, "the threads to end")
    with Client(stack.url, stack.key(), trust_env=False) as client:
        client.stop_turn(turn_id, wait_ms=10_000)


@pytest.mark.parametrize("via", WAYS)
def test_a_cancelled_task_closes_its_connection(stack: Service, api: Api, via: str):
    session_id = api.session(user="alice")
    turn_id = api.turn(session_id, ENDLESS)
    api.close()
    gc.collect()
    others = connections_to(stack.url)

    async def read(client: AsyncClient, has_begun: asyncio.Event) -> None:
        async for _ in client.stream_turn(turn_id):
            has_begun.set()

    async def cancel() -> None:
        async with AsyncClient(stack.url, stack.key(), via=via, trust_env=False) as client:
            has_begun = asyncio.Event()
            task = asyncio.create_task(read(client, has_begun))
            await asyncio.wait_for(has_begun.wait(), LIMIT_SECONDS)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            async with asyncio.timeout(LIMIT_SECONDS):
                await client.stop_turn(turn_id, wait_ms=10_000)
        async with asyncio.timeout(LIMIT_SECONDS):
            # Sockets and tasks that were told to end do so with the next turns of the loop.
            while connections_to(stack.url) - others or asyncio.all_tasks() != {asyncio.current_task()}:  # noqa: ASYNC110
                await asyncio.sleep(0)

    asyncio.run(cancel())


def test_control_c_ends_a_program_that_streams(stack: Service, api: Api, tmp_path: Path):
    turn_id = api.turn(api.session(user="alice"), ENDLESS)
    program = tmp_path / "program.py"
    program.write_text(
        textwrap.dedent(
            f"""
            import signal, threading
            from turnkeeper_client import Client
            # Whoever is started in the background by a shell ignores it.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            try:
                with Client({stack.url!r}, {stack.key()!r}, trust_env=False) as client:
                    for event in client.stream_turn({turn_id!r}):
                        print(type(event).__name__, flush=True)
            except KeyboardInterrupt:
                print("interrupted", threading.active_count(), flush=True)
            """
        )
    )
    with subprocess.Popen(
        [sys.executable, "-W", "error", str(program)], stdout=subprocess.PIPE, text=True
    ) as process:
        while process.stdout.readline().strip() != "ContentDelta":
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=LIMIT_SECONDS)
    # What was being printed may have been cut off before the end of its line.
    assert said.endswith("interrupted 1\n")
    api.stop(turn_id)


def test_the_time_limit_of_a_stream_ends_it_and_not_the_turn(client: Client, api: Api, session_id: str):
    posted = client.create_turn(session_id, ENDLESS)
    with pytest.raises(TimeLimitError):
        client.stream_turn(posted, limit_seconds=1).until_done()
    turn = client.get_turn(posted.id)
    assert not turn.is_over
    stream = client.stream_turn(turn)
    assert isinstance(next(stream), TurnQueued)
    stream.close()
    assert list(stream) == []
    api.stop(turn.id)
