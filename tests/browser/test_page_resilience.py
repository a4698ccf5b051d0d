"""The page under failures: a lost network, a dead worker, responses that never arrive, a reader who stops."""

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, BrowserContext, Locator, Page, Route, expect

from tests.browser.conftest import clean_tab, profile
from tests.e2e.conftest import Service, api, openai_compatible, scripted, stack
from tests.e2e.protocol_client import Api, wait_until

__all__ = ["api", "openai_compatible", "scripted", "stack"]


@pytest.fixture
def chat(browser: Browser, stack: Service) -> Iterator[Page]:
    """A tab of a fresh profile, signed in."""
    with profile(browser) as context, signed_in(context, stack) as page:
        yield page


class signed_in:  # noqa: N801 -- a context manager that is one line where it is used
    """A tab that is signed in; it shows the session of another tab if one is given."""

    def __init__(self, context: BrowserContext, stack: Service, like: Page | None = None) -> None:
        self.tab = clean_tab(context)
        self.stack = stack
        self.like = like

    def __enter__(self) -> Page:
        page = self.tab.__enter__()
        page.goto(self.stack.url)
        page.get_by_label("API key").fill(self.stack.key("user"))
        page.get_by_role("button", name="Sign in").click()
        expect(page.get_by_label("Message")).to_be_visible()
        if self.like is not None:
            page.goto(self.like.url)
        return page

    def __exit__(self, *failure: object) -> None:
        self.tab.__exit__(*failure)


def say(page: Page, message: str) -> None:
    page.get_by_label("Message").fill(message)
    page.get_by_label("Message").press("Enter")


def last(page: Page) -> Locator:
    return page.locator(".exchange").last


def words(page: Page) -> list[str]:
    return last(page).locator(".text").inner_text().split()


def badge(page: Page) -> Locator:
    return page.locator(".state")


def wait_for_words(page: Page, count: int) -> None:
    expect(last(page).locator(".text")).to_have_text(re.compile(rf"(\S+\s+){{{count}}}"))


def expect_whole(page: Page, api: Api, status: str = "completed") -> None:
    """The last answer has ended, without a cursor, and is the stored one."""
    expect(last(page)).to_have_attribute("data-status", status)
    expect(page.locator(".is-streaming")).to_have_count(0)
    turn = api.get_turn(last(page).get_attribute("data-turn-id") or "")
    stored = api.answer_to(turn).split()
    # What differs from its hash is read again, which may be after the end is shown.
    wait_until(lambda: words(page) == stored, "the stored text on screen")
    # Text that was read from the store alone has no mark: it needs no proof.
    expect(last(page)).not_to_have_attribute("data-exact", "false")


def turns_of(page: Page, api: Api) -> list[dict]:
    session_id = page.url.rpartition("/")[2]
    return api.call("GET", f"/v1/sessions/{session_id}/turns").json()["data"]


def test_a_network_that_goes_and_comes_back_loses_nothing(chat: Page, api: Api) -> None:
    say(chat, "[[tokens=200 rate=30]] Tell me.")
    wait_for_words(chat, 10)
    expect(badge(chat)).to_have_text("connected")
    chat.context.set_offline(True)
    expect(badge(chat)).to_have_attribute("data-state", "offline")
    expect(chat.locator("#announcer")).to_have_text("Offline.")
    shown = words(chat)
    chat.context.set_offline(False)
    expect(badge(chat)).to_have_attribute("data-state", "live")
    expect_whole(chat, api)
    assert words(chat)[: len(shown) - 1] == shown[:-1]


def test_a_worker_that_is_killed_in_mid_answer_leaves_no_stuck_cursor(
    chat: Page, stack: Service, api: Api
) -> None:
    say(chat, "[[tokens=60 rate=30 hang=30 fail_times=1]] Tell me.")  # the first call does not end by itself
    wait_for_words(chat, 10)
    pids = stack.kill_workers(last(chat).get_attribute("data-turn-id") or "")
    expect(last(chat).locator(".remarks")).to_contain_text("started again")
    expect_whole(chat, api)
    stack.await_pids("worker", pids)


def test_tabs_and_devices_show_the_same_text_and_a_reload_goes_on(
    browser: Browser, chat: Page, stack: Service, api: Api
) -> None:
    say(chat, "[[tokens=150 rate=30]] Tell me.")
    wait_for_words(chat, 5)
    with (
        signed_in(chat.context, stack, like=chat) as tab,
        profile(browser) as elsewhere,
        signed_in(elsewhere, stack, like=chat) as device,
    ):
        wait_for_words(tab, 10)
        wait_for_words(device, 10)
        chat.reload()
        for page in (chat, tab, device):
            expect_whole(page, api)
        assert words(chat) == words(tab) == words(device)
        expect(chat.locator(".exchange")).to_have_count(1)


def test_a_message_whose_answers_are_all_lost_is_shown_once_and_makes_one_turn(chat: Page, api: Api) -> None:
    say(chat, "[[tokens=3]] Hello.")
    expect_whole(chat, api)

    def lose(route: Route) -> None:
        route.fetch()
        route.abort()

    chat.route("**/turns", lambda route: lose(route) if route.request.method == "POST" else route.fallback())
    say(chat, "[[tokens=3]] Once only.")
    expect(chat.locator(".exchange")).to_have_count(2)
    expect(chat.locator(".unsent")).to_have_count(0)
    expect_whole(chat, api)
    chat.unroute("**/turns")
    chat.reload()
    expect(chat.locator(".exchange")).to_have_count(2)
    expect(chat.locator(".unsent")).to_have_count(0)
    assert len(turns_of(chat, api)) == 2


def test_what_is_written_without_a_network_is_sent_in_order_when_it_is_back(chat: Page, api: Api) -> None:
    say(chat, "[[tokens=3]] Hello.")
    expect_whole(chat, api)
    chat.context.set_offline(True)
    say(chat, "[[tokens=3]] First.")
    say(chat, "[[tokens=3]] Second.")
    unsent = chat.locator(".unsent")
    expect(unsent.first).to_contain_text("It is sent when the connection is back.")
    chat.context.set_offline(False)
    expect(unsent).to_have_count(0)
    expect(chat.locator(".question")).to_have_text(
        ["[[tokens=3]] Hello.", "[[tokens=3]] First.", "[[tokens=3]] Second."]
    )
    expect_whole(chat, api)
    assert len(turns_of(chat, api)) == 3


def test_drafts_are_kept_for_each_session(chat: Page, api: Api) -> None:
    say(chat, "[[tokens=3]] Hello.")
    expect_whole(chat, api)
    first = chat.url
    chat.get_by_label("Message").fill("not yet")
    chat.get_by_role("link", name="New session").click()
    expect(chat.get_by_role("heading", name="New session")).to_be_visible()
    expect(chat.get_by_label("Message")).to_have_value("")
    chat.goto(first)
    chat.reload()
    expect(chat.get_by_label("Message")).to_have_value("not yet")


def test_a_queued_message_is_shown_as_queued_and_can_be_taken_back(chat: Page, api: Api) -> None:
    say(chat, "[[tokens=2000 rate=30]] Tell me at length.")
    wait_for_words(chat, 5)
    say(chat, "[[tokens=3]] And then?")
    expect(last(chat)).to_have_attribute("data-status", "queued")
    expect(last(chat).locator(".standing")).to_have_text("queued, 1 message before it")
    last(chat).get_by_role("button", name="Take out of the queue").click()
    expect(last(chat)).to_have_attribute("data-status", "stopped")
    expect(chat.locator(".is-streaming")).to_have_count(1)
    chat.keyboard.press("Escape")
    expect(chat.locator(".is-streaming")).to_have_count(0)
    assert [turn["status"] for turn in turns_of(chat, api)] == ["stopped", "stopped"]


def test_a_stop_at_the_very_end_ends_the_cursor_whoever_was_first(chat: Page, api: Api) -> None:
    say(chat, "[[tokens=12 rate=40]] Be brief.")
    wait_for_words(chat, 9)
    chat.keyboard.press("Escape")
    expect(chat.locator(".is-streaming")).to_have_count(0)
    expect(last(chat)).to_have_attribute("data-status", re.compile("completed|stopped"))
    expect_whole(chat, api, last(chat).get_attribute("data-status") or "")
