"""The page against a service that misbehaves on purpose: holes, lost connections, refusals, lost answers.

The service is played by the test, event by event, so that each fault comes at one known moment.
"""

import hashlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, Route, WebSocketRoute, expect

from tests.browser.conftest import LIMIT_SECONDS
from tests.browser.running import say

SESSION = "01890000-0000-7000-8000-000000000001"
TURN = "01890000-0000-7000-8000-0000000000aa"
USAGE = {
    "input_tokens": 10,
    "cache_read_tokens": 0,
    "cache_write_tokens": 0,
    "output_tokens": 3,
    "reasoning_tokens": 0,
}
TIME = "2026-01-31T09:30:00.000Z"


NO_ANSWER = (0, None)
"""The request arrives but its response never does."""
LOST = (0, "lost")
"""The connection is cut before the response."""
CUT = (202, b'{"id": "0189')
"""The connection is cut within the response, and the part that arrived looks complete to the browser."""


def sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def row(status: str, **more: Any) -> dict[str, Any]:
    """A turn as the HTTP API returns it."""
    finished = TIME if status in {"completed", "stopped", "failed", "expired"} else None
    return {
        "id": TURN,
        "session_id": SESSION,
        "status": status,
        "finished_at": finished,
        "usage": USAGE,
        "cost_usd": "0.001",
        **more,
    }


def problem(status: int, code: str, title: str, **more: Any) -> tuple[int, dict[str, Any]]:
    return status, {
        "type": "about:blank",
        "status": status,
        "code": code,
        "title": title,
        "detail": "",
        **more,
    }


@dataclass
class Service:
    """A fake Turnkeeper that the page cannot tell from the real one."""

    page: Page
    turns: list[dict[str, Any]] = field(default_factory=list)
    messages: list[dict[str, Any]] = field(default_factory=list)
    status: str = "active"
    sockets: list[WebSocketRoute] = field(default_factory=list)
    subscriptions: list[dict[str, Any]] = field(default_factory=list)
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)
    posted: dict[str, Any] = field(default_factory=dict)
    answers: dict[tuple[str, str], Callable[[], tuple[int, Any] | None]] = field(default_factory=dict)
    greets: bool = True

    def session(self) -> dict[str, Any]:
        active = next((turn["id"] for turn in self.turns if turn["finished_at"] is None), None)
        return {
            "id": SESSION, "user": "demo", "title": "A session", "status": self.status, "turn_count": len(self.turns),
            "usage": USAGE, "cost_usd": "0.002", "active_turn_id": active, "last_activity_at": TIME,
        }  # fmt: skip

    def ask(self, question: str = "why?") -> None:
        """There is a running turn already."""
        self.turns.append(row("running", usage=None, cost_usd=None))
        self.messages.append(
            {
                "id": "m1",
                "turn_id": TURN,
                "position": 2,
                "role": "user",
                "content": question,
                "status": "complete",
            }
        )

    def settle(self, status: str, content: str, **more: Any) -> None:
        """The turn has ended, in the store."""
        self.turns[:] = [row(status, **more)]
        if content:
            self.messages.append(
                {
                    "id": "m2",
                    "turn_id": TURN,
                    "position": 3,
                    "role": "assistant",
                    "content": content,
                    "status": "partial",
                }
            )

    def http(self, route: Route) -> None:
        request = route.request
        path = request.url.partition("localhost")[2].partition("?")[0]
        self.requests.append((request.method, path, request.headers))
        if request.method == "POST" and path.endswith("/turns"):
            self.posted = request.post_data_json
        own = self.answers.get((request.method, path), lambda: None)()
        if own == NO_ANSWER:
            return
        if own == LOST:
            route.abort()
            return
        status, body = self.answer(request.method, path) if own is None else own
        kind = "application/json" if status < 400 else "application/problem+json"
        text = body if isinstance(body, bytes) else json.dumps(body)
        route.fulfill(status=status, headers={"Content-Type": kind}, body=text)

    def answer(self, method: str, path: str) -> tuple[int, Any]:
        match method, path.removeprefix("/v1"):
            case "GET", "/sessions":
                return 200, {"data": [self.session()], "next_cursor": None}
            case "GET", tail if tail == f"/sessions/{SESSION}":
                return 200, self.session()
            case "GET", tail if tail.endswith("/messages"):
                return 200, {"data": self.messages, "next_cursor": None}
            case "GET", tail if tail.endswith("/turns"):
                return 200, {"data": self.turns, "next_cursor": None}
            case "GET", tail if tail == f"/turns/{TURN}":
                return 200, self.turns[0]
            case "POST", tail if tail.endswith("/turns"):
                self.ask()
                return 202, self.turns[0]
            case "POST", tail if tail.endswith("/stop"):
                return 202, row("stopping")
            case "GET", "/budget":
                return problem(403, "forbidden", "This key may not do that")
            case "POST", "/tickets":
                return 201, {"ticket": "t" * 8, "expires_at": TIME}
        raise AssertionError(f"{method} {path} is not played")

    def keys(self) -> list[str]:
        """The idempotency keys of the turns that were posted."""
        posts = [
            headers for method, path, headers in self.requests if (method, path[-6:]) == ("POST", "/turns")
        ]
        return [headers["idempotency-key"] for headers in posts]

    def connect(self, socket: WebSocketRoute) -> None:
        self.sockets.append(socket)
        socket.on_message(lambda text: self.receive(json.loads(text)))

    def receive(self, frame: dict[str, Any]) -> None:
        if frame["op"] == "subscribe":
            self.subscriptions.append(frame)
            if self.greets:
                self.greet()

    def greet(self, *replay: dict[str, Any]) -> None:
        self.send({"type": "subscribed", "session_id": SESSION, "turn_id": TURN, "last_seq": 0})
        self.send(*replay)
        self.send({"type": "caught_up", "session_id": SESSION})

    def send(self, *events: dict[str, Any]) -> None:
        for event in events:
            self.sockets[-1].send(json.dumps(event))

    def pass_time_until(self, is_true: Callable[[], bool]) -> None:
        """Let the page's clock, which stands still, go on until something is so."""
        deadline = time.monotonic() + LIMIT_SECONDS
        while not is_true():
            assert time.monotonic() < deadline, "waited too long"
            self.page.clock.run_for(500)

    def wait_for(self, is_true: Callable[[], bool]) -> None:
        deadline = time.monotonic() + LIMIT_SECONDS
        while not is_true():
            assert time.monotonic() < deadline, "waited too long"
            self.page.wait_for_timeout(10)


def event(kind: str, seq: int, **fields: Any) -> dict[str, Any]:
    return {
        "type": kind,
        "session_id": SESSION,
        "turn_id": TURN,
        "seq": seq,
        "attempt": 1,
        "ts": TIME,
        **fields,
    }


def done(seq: int, status: str, content: str, **fields: Any) -> dict[str, Any]:
    usual = {"usage": USAGE, "cost_usd": "0.001", "content_sha256": sha256(content)}
    return event("done", seq, status=status, **{**usual, **fields})


@pytest.fixture
def service(page: Page, origin: str) -> Service:
    """The played service; the tab is signed in and has not opened anything yet."""
    played = Service(page)
    page.route(f"{origin}/v1/**", played.http)
    page.route_web_socket(f"{origin.replace('http', 'ws')}/v1/stream", played.connect)
    page.goto(f"{origin}/page/icon.svg")
    page.evaluate("sessionStorage.setItem('turnkeeper.key', 'tsk_test')")
    return played


def open_session(service: Service) -> None:
    service.page.goto(f"http://localhost/#/sessions/{SESSION}")
    expect(service.page.locator(".state")).to_have_attribute("data-state", "live")


def start(service: Service) -> None:
    """A turn is being answered, and its first words are on screen."""
    service.ask()
    open_session(service)
    service.send(event("turn_started", 1, provider="p", model="m"), event("content_delta", 2, delta="one "))
    expect(text(service)).to_have_text("one ")


def text(service: Service) -> Any:
    return service.page.locator(".exchange .text")


def exchange(service: Service) -> Any:
    return service.page.locator(".exchange")


def test_a_hole_is_filled_by_asking_for_what_is_missing(service: Service) -> None:
    start(service)
    service.greets = False
    service.send(event("content_delta", 4, delta="three"))
    service.wait_for(lambda: len(service.subscriptions) == 2)
    assert service.subscriptions[-1] == {
        "op": "subscribe", "session_id": SESSION, "turn_id": TURN, "after": 2, "replay": "events",
    }  # fmt: skip
    service.greet(event("content_delta", 3, delta="two "), event("content_delta", 4, delta="three"))
    expect(text(service)).to_have_text("one two three")


def test_a_gap_is_followed_by_its_snapshot(service: Service) -> None:
    start(service)
    snapshot = event("snapshot", 9, status="running", message_id="m2", content="one two", reasoning="")
    service.send(
        {"type": "gap", "turn_id": TURN, "from": 3, "to": 9},
        snapshot,
        event("content_delta", 10, delta=" three"),
    )
    expect(text(service)).to_have_text("one two three")


def test_a_lost_connection_goes_on_where_reading_stopped(service: Service) -> None:
    start(service)
    service.greets = False
    service.sockets[-1].close(code=4409, reason="too slow")
    service.wait_for(lambda: len(service.subscriptions) == 2)
    assert (service.subscriptions[-1]["after"], service.subscriptions[-1]["turn_id"]) == (2, TURN)
    service.greet(event("content_delta", 2, delta="one "), event("content_delta", 3, delta="two"))
    expect(text(service)).to_have_text("one two")


def test_a_replay_that_never_ends_is_given_up_and_the_store_has_the_answer(service: Service) -> None:
    service.page.clock.install()
    service.ask()
    service.greets = False
    service.page.goto(f"http://localhost/#/sessions/{SESSION}")
    service.wait_for(lambda: len(service.subscriptions) == 1)
    service.settle("completed", "one two")
    service.page.clock.run_for(20_000)
    expect(text(service)).to_have_text("one two")
    expect(service.page.locator(".is-streaming")).to_have_count(0)


def test_a_tab_that_is_given_no_frames_shows_what_comes_and_says_that_it_has_ended(service: Service) -> None:
    service.page.add_init_script("window.requestAnimationFrame = () => 1")
    start(service)
    service.settle("completed", "one two")
    service.send(event("content_delta", 3, delta="two"), done(4, "completed", "one two"))
    expect(text(service)).to_have_text("one two")
    expect(service.page.locator("#announcer")).to_have_text("The answer is complete.")


def test_a_connection_that_fell_silent_is_replaced(service: Service) -> None:
    service.page.clock.install()
    start(service)
    service.page.clock.run_for(90_000)
    service.wait_for(lambda: len(service.subscriptions) > 1)
    assert service.subscriptions[1]["after"] == 2


def test_an_answer_that_ended_while_nobody_was_connected_is_read_from_the_store(service: Service) -> None:
    start(service)
    service.answers["POST", "/v1/tickets"] = lambda: problem(503, "unavailable", "Unavailable")
    service.settle("completed", "one two three")
    service.sockets[-1].close(code=1012, reason="restart")
    expect(exchange(service)).to_have_attribute("data-status", "completed")
    expect(text(service)).to_have_text("one two three")
    expect(service.page.locator(".is-streaming")).to_have_count(0)


@pytest.mark.parametrize("status", ["completed", "stopped", "failed", "expired"])
def test_the_cursor_ends_with_done_whatever_the_end(service: Service, status: str) -> None:
    start(service)
    expect(service.page.locator(".is-streaming")).to_have_count(1)
    usage = (
        USAGE if status == "completed" else None
    )  # the page must not wait for what only a complete answer has
    service.settle(status, "one ", usage=usage)
    service.send(done(3, status, "one ", usage=usage))
    expect(exchange(service)).to_have_attribute("data-status", status)
    expect(service.page.locator(".is-streaming")).to_have_count(0)
    expect(exchange(service)).to_have_attribute("data-exact", "true")


def test_text_that_differs_from_its_hash_is_replaced_by_the_stored_text(service: Service) -> None:
    start(service)
    service.settle("completed", "one two")
    service.send(done(3, "completed", "one two"))
    expect(text(service)).to_have_text("one two")
    expect(service.page.locator(".is-streaming")).to_have_count(0)


def test_done_over_a_hole_ends_the_turn_with_the_stored_text(service: Service) -> None:
    start(service)
    service.settle("stopped", "one two three", stop_reason="user")
    service.send(done(30, "stopped", "one two three", stop_reason="user"))
    expect(text(service)).to_have_text("one two three")
    expect(service.page.locator(".outcome")).to_contain_text("Stopped.")
    expect(service.page.locator(".is-streaming")).to_have_count(0)


def test_a_turn_asked_elsewhere_appears_with_its_question(service: Service) -> None:
    open_session(service)
    service.ask("asked in another tab")
    service.send(
        event("turn_queued", 1),
        event("turn_started", 2, provider="p", model="m"),
        event("content_delta", 3, delta="answer"),
    )
    expect(service.page.locator(".question")).to_have_text("asked in another tab")
    expect(text(service)).to_have_text("answer")


def test_a_post_whose_answer_was_lost_is_sent_again_with_the_same_key(service: Service) -> None:
    open_session(service)
    failures = iter(
        [
            problem(503, "unavailable", "Unavailable", retry_after_ms=10),
            problem(502, "", "Bad gateway", retry_after_ms=10),
        ]
    )
    service.answers["POST", f"/v1/sessions/{SESSION}/turns"] = lambda: next(failures, None)
    service.page.get_by_label("Message").fill("why?")
    service.page.get_by_label("Message").press("Enter")
    expect(service.page.locator(".exchange .question")).to_have_text("why?")
    assert service.keys() == service.keys()[:1] * 3
    expect(service.page.get_by_label("Message")).to_have_value("")


TURNS = ("POST", f"/v1/sessions/{SESSION}/turns")


@pytest.fixture
def unsent(service: Service) -> Locator:
    """What is below the conversation of an open session, whose clock stands still."""
    service.page.clock.install(time=0)
    open_session(service)
    service.page.clock.pause_at(3_600)
    # An hour of silence means a lost connection.
    state = service.page.locator(".state")
    service.pass_time_until(lambda: len(service.sockets) == 2 and state.get_attribute("data-state") == "live")
    return service.page.locator(".unsent")


@pytest.mark.parametrize("answer", [LOST, CUT], ids=["before the answer", "in the answer"])
def test_a_message_whose_answers_are_lost_is_sent_again_by_itself(
    service: Service, unsent: Locator, answer: tuple[int, Any]
) -> None:
    service.answers[TURNS] = lambda: answer
    say(service.page, "why?")
    service.pass_time_until(lambda: unsent.get_attribute("data-state") == "waiting")
    expect(unsent).to_contain_text("Trying again…")
    say(service.page, "and then?")
    expect(unsent.last).to_contain_text("Waits for the message before it.")
    unsent.last.get_by_role("button", name="Discard").click()
    tries = len(service.keys())
    service.pass_time_until(lambda: len(service.keys()) > tries)
    service.answers.clear()
    service.pass_time_until(lambda: unsent.count() == 0)
    expect(service.page.locator(".question")).to_have_text(["why?"])
    assert len(set(service.keys())) == 1
    expect(service.page.get_by_label("Message")).to_have_value("")


def test_a_network_that_comes_back_ends_the_pause_before_the_next_try(
    service: Service, unsent: Locator
) -> None:
    service.answers[TURNS] = lambda: LOST
    say(service.page, "why?")
    service.pass_time_until(lambda: unsent.get_attribute("data-state") == "waiting")
    service.answers.clear()
    service.page.evaluate("window.dispatchEvent(new Event('online'))")
    expect(unsent).to_have_count(0)
    expect(service.page.locator(".question")).to_have_text(["why?"])


def test_a_message_that_is_a_turn_already_is_known_by_its_key_and_holds_nothing_up(
    service: Service, unsent: Locator
) -> None:
    service.answers[TURNS] = lambda: NO_ANSWER
    say(service.page, "why?")
    service.wait_for(lambda: len(service.keys()) == 1)
    say(service.page, "and then?")
    service.ask()
    service.turns[0]["metadata"] = service.posted["metadata"]
    service.answers.clear()
    service.send(event("turn_queued", 1))
    expect(unsent).to_have_count(0)
    assert len(set(service.keys())) == len(service.keys()) == 2


def test_messages_keep_their_order_when_the_first_was_given_up(service: Service, unsent: Locator) -> None:
    service.answers[TURNS] = lambda: LOST
    say(service.page, "why?")
    say(service.page, "and then?")
    service.pass_time_until(lambda: unsent.first.get_attribute("data-state") == "failed")
    expect(unsent.first).to_contain_text("Not sent. Turnkeeper cannot be reached.")
    expect(unsent.last).to_contain_text("Waits for the message before it.")
    assert len(set(service.keys())) == 1
    service.page.reload()
    expect(unsent.first).to_contain_text("Not sent. Turnkeeper cannot be reached.")
    service.answers.clear()
    unsent.get_by_role("button", name="Retry").click()
    expect(unsent).to_have_count(0)
    assert service.keys()[-2] == service.keys()[0] != service.keys()[-1]
    expect(service.page.get_by_label("Message")).to_be_focused()


def test_a_refused_message_stays_in_its_field_and_the_refusal_is_in_words(service: Service) -> None:
    open_session(service)
    service.answers["POST", f"/v1/sessions/{SESSION}/turns"] = lambda: problem(
        429, "too_many_turns", "Too many turns at once", retry_after_ms=60_000
    )
    service.page.get_by_label("Message").fill("why?")
    service.page.get_by_label("Message").press("Enter")
    expect(service.page.locator(".notice")).to_contain_text(
        "Too many turns at once. Try again in 60 seconds."
    )
    expect(service.page.get_by_label("Message")).to_have_value("why?")
    service.page.reload()
    expect(service.page.get_by_label("Message")).to_have_value("why?")


def test_a_page_left_while_sending_sends_again_with_the_same_key(service: Service) -> None:
    open_session(service)
    service.answers["POST", f"/v1/sessions/{SESSION}/turns"] = lambda: NO_ANSWER
    service.page.get_by_label("Message").fill("was it sent?")
    service.page.get_by_label("Message").press("Enter")
    service.wait_for(lambda: len(service.keys()) == 1)
    service.answers.clear()
    service.page.reload()
    expect(service.page.locator(".exchange")).to_have_count(1)
    assert service.keys() == service.keys()[:1] * 2


def test_a_stop_that_was_not_heard_is_said_and_can_be_tried_again(service: Service) -> None:
    start(service)
    service.answers["POST", f"/v1/turns/{TURN}/stop"] = lambda: problem(
        403, "forbidden", "This key may not do that"
    )
    service.page.get_by_role("button", name="Stop").click()
    expect(service.page.locator(".notice")).to_contain_text("This key may not do that.")
    expect(service.page.get_by_role("button", name="Stop")).to_be_enabled()
    expect(exchange(service)).to_have_attribute("data-status", "running")


def test_a_revoked_key_leads_back_to_signing_in(service: Service) -> None:
    open_session(service)
    service.answers["POST", "/v1/tickets"] = lambda: problem(401, "unauthorized", "Unauthorized")
    service.sockets[-1].close(code=4401, reason="authentication")
    expect(service.page.get_by_label("API key")).to_be_visible()
    expect(service.page.locator(".error")).to_contain_text("no longer valid")
    assert service.page.evaluate("[sessionStorage['turnkeeper.key'], localStorage['turnkeeper.key']]") == [
        None,
        None,
    ]


def test_the_key_and_the_ticket_stand_in_no_address(service: Service) -> None:
    start(service)
    addresses = [path for _, path, _ in service.requests] + [socket.url for socket in service.sockets]
    assert not any("tsk_" in address or "tttt" in address for address in addresses)
    assert all(headers["authorization"] == "Bearer tsk_test" for _, _, headers in service.requests)


def test_a_closed_session_is_read_only(service: Service) -> None:
    service.status = "closed"
    open_session(service)
    expect(service.page.get_by_label("Message")).to_be_disabled()
    expect(service.page.get_by_label("Message")).to_have_attribute("placeholder", "This session is closed")


def test_reasoning_is_folded_away_from_the_answer(service: Service) -> None:
    start(service)
    service.send(event("reasoning_delta", 3, delta="because"))
    expect(service.page.locator(".reasoning summary")).to_be_visible()
    expect(service.page.locator(".thoughts")).to_be_hidden()
    expect(service.page.locator(".thoughts")).to_have_text("because")
    expect(text(service)).to_have_text("one ")


def test_reasoning_that_cannot_be_read_again_says_why(service: Service) -> None:
    service.ask()
    service.settle("completed", "one two")
    service.turns[0]["usage"] = USAGE | {"reasoning_tokens": 7}
    open_session(service)
    service.answers["POST", "/v1/tickets"] = lambda: problem(404, "not_found", "Not found")
    service.page.locator(".reasoning summary").click()
    expect(service.page.locator(".thoughts")).to_have_text("Not found.")


def test_an_unknown_session_is_said_to_be_missing(service: Service) -> None:
    service.answers["GET", f"/v1/sessions/{SESSION}"] = lambda: problem(404, "not_found", "Not found")
    service.page.goto(f"http://localhost/#/sessions/{SESSION}")
    expect(service.page.get_by_role("heading", name="Not found")).to_be_visible()


# --- what a reader is told once, and in time ------------------------------------------------------------


def test_a_session_that_expired_says_so_before_anything_is_written(service: Service) -> None:
    service.page.clock.install()
    open_session(service)
    box = service.page.get_by_label("Message", exact=True)
    expect(box).to_be_enabled()
    service.status = "expired"
    service.page.clock.run_for(61_000)
    expect(box).to_be_disabled()
    expect(box).to_have_attribute("placeholder", "This session has expired: start a new one")


def test_a_reader_who_comes_back_to_an_expired_session_is_told_at_once(service: Service) -> None:
    service.page.clock.install()
    open_session(service)
    service.status = "expired"
    service.page.evaluate("document.activeElement.blur()")
    service.page.clock.pause_at(time.time() + 100_000)
    service.page.get_by_label("Message", exact=True).focus()
    expect(service.page.get_by_label("Message", exact=True)).to_be_disabled()


def test_a_stream_that_is_refused_for_good_is_said_and_not_tried_again(service: Service) -> None:
    open_session(service)
    service.sockets[-1].close(code=4403, reason="origin")
    notice = service.page.locator(".notice")
    expect(notice).to_have_count(1)
    expect(notice).to_contain_text("Streams may not be opened from here.")
    expect(notice.get_by_role("button", name="Try again")).to_be_visible()
    expect(service.page.locator(".state")).to_have_attribute("data-state", "ended")
    assert len(service.sockets) == 1


def test_an_error_whose_detail_repeats_its_title_is_said_once(service: Service) -> None:
    start(service)
    said = {
        "code": "provider_rejected",
        "title": "The model provider rejected the request",
        "detail": "the model provider rejected the request (status 400)",
    }
    service.settle("failed", "", error=said, usage=None)
    service.send(event("error", 3, error=said), done(4, "failed", "", error=said, usage=None))
    end = exchange(service).locator(".outcome")
    expect(end).to_have_text("The model provider rejected the request (status 400). ")


def test_a_refused_message_is_explained_once_while_another_is_being_written(service: Service) -> None:
    def refuse() -> tuple[int, Any]:
        service.page.get_by_label("Message", exact=True).fill("another one")
        return problem(409, "session_closed", "Session is closed")

    open_session(service)
    service.answers["POST", f"/v1/sessions/{SESSION}/turns"] = refuse
    service.page.get_by_label("Message", exact=True).fill("hello")
    service.page.keyboard.press("Enter")
    expect(service.page.locator(".unsent")).to_contain_text("Not sent. Session is closed.")
    expect(service.page.locator(".notice")).to_be_hidden()
