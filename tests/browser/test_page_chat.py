"""A person's actions in a conversation, against the whole service: edit, ask again, queue, rename, read a long one."""

import json

from playwright.sync_api import Page, Route, expect

from tests.browser.conftest import Until
from tests.browser.running import (
    Service,
    expect_ended,
    last,
    say,
    session_of,
    sign_in,
    wait_for_words,
    wait_until,
)

SLOW = "[[tokens=3000 rate=40]] "
QUESTIONS = 250
MOST_STOPS = 100
"""Twenty sessions, the controls around them, and the actions on one answer: twice as many as there are."""


def edit(page: Page, words: str, place: int = -1) -> None:
    """Rewrite a question; the last one by default."""
    exchange = page.locator(".exchange").nth(place)
    exchange.hover()
    exchange.get_by_role("button", name="Edit").click()
    editor = page.get_by_label("The edited text")
    expect(editor).to_be_focused()
    editor.fill(words)
    page.keyboard.press("Control+Enter")
    expect(editor).to_have_count(0)


def questions(service: Service, page: Page) -> list[str]:
    """The stored questions, in the order of the conversation."""
    messages = service.rows(f"/v1/sessions/{session_of(page)}/messages")
    return [message["content"] for message in messages if message["role"] == "user"]


def test_an_edited_message_is_a_turn_of_its_own(signed_in: Page, service: Service) -> None:
    say(signed_in, "[[tokens=3]] First.")
    expect_ended(signed_in, "completed")
    edit(signed_in, "[[tokens=3]] Second.")
    expect(signed_in.locator(".exchange")).to_have_count(2)
    expect_ended(signed_in, "completed")
    assert questions(service, signed_in) == ["[[tokens=3]] First.", "[[tokens=3]] Second."]


def test_a_message_that_is_edited_while_it_is_answered_takes_the_place_of_the_old(
    signed_in: Page, service: Service
) -> None:
    say(signed_in, SLOW)
    wait_for_words(signed_in, 5)
    edit(signed_in, "[[tokens=3]] Shorter.")
    expect(signed_in.locator(".question")).to_have_text(["[[tokens=3]] Shorter."])
    expect_ended(signed_in, "completed")
    assert questions(service, signed_in) == ["[[tokens=3]] Shorter."]


def test_an_edited_message_takes_none_away_that_waits(signed_in: Page, service: Service) -> None:
    say(signed_in, SLOW)
    wait_for_words(signed_in, 5)
    say(signed_in, "[[tokens=3]] And then?")
    expect(last(signed_in)).to_have_attribute("data-status", "queued")
    edit(signed_in, "[[tokens=3]] Shorter.", place=0)
    expect(signed_in.locator(".exchange")).to_have_count(3)
    expect(last(signed_in).locator(".standing")).to_have_text("queued, 2 messages before it")
    signed_in.keyboard.press("Escape")
    expect_ended(signed_in, "completed")
    assert questions(service, signed_in) == [SLOW, "[[tokens=3]] And then?", "[[tokens=3]] Shorter."]


def test_an_edited_message_whose_answers_were_lost_makes_one_turn(signed_in: Page, service: Service) -> None:
    say(signed_in, SLOW)
    wait_for_words(signed_in, 5)

    def lose(route: Route) -> None:
        if route.request.method == "POST":
            route.fetch()
            route.abort()
        else:
            route.fallback()

    signed_in.route("**/turns", lose)
    edit(signed_in, "[[tokens=3]] Shorter.")
    # The message that it replaces is gone by now: sent again unchanged, it would be another request.
    expect(signed_in.locator(".unsent")).to_have_count(0)
    signed_in.unroute("**/turns")
    expect(signed_in.locator(".notice")).to_be_hidden()
    expect(signed_in.locator(".question")).to_have_text(["[[tokens=3]] Shorter."])
    expect_ended(signed_in, "completed")
    assert questions(service, signed_in) == ["[[tokens=3]] Shorter."]


def test_a_question_that_is_asked_again_waits_for_the_answer_being_written(
    signed_in: Page, service: Service
) -> None:
    say(signed_in, "[[tokens=3]] First.")
    expect_ended(signed_in, "completed")
    say(signed_in, SLOW)
    wait_for_words(signed_in, 5)
    first = signed_in.locator(".exchange").first
    first.hover()
    first.get_by_role("button", name="Ask again").click()
    expect(last(signed_in).locator(".standing")).to_have_text("queued, 1 message before it")
    expect(signed_in.locator(".standing").nth(1)).to_have_text("answering…")
    expect(signed_in.locator(".tokens").nth(1)).to_contain_text("so far")
    last(signed_in).get_by_role("button", name="Take out of the queue").click()
    expect(last(signed_in)).to_have_attribute("data-status", "stopped")
    expect(signed_in.locator(".exchange").nth(1)).to_have_attribute("data-status", "running")
    signed_in.get_by_role("button", name="Stop").click()
    expect_ended(signed_in, "stopped")
    assert len(questions(service, signed_in)) == 3


def test_a_session_is_renamed_flagged_found_and_closed(signed_in: Page, service: Service) -> None:
    say(signed_in, "[[tokens=3]] Hello.")
    expect_ended(signed_in, "completed")

    def choose(action: str) -> None:
        signed_in.get_by_role("button", name="This session").click()
        signed_in.get_by_role("menuitem", name=action).click()

    choose("Rename")
    signed_in.get_by_role("dialog").get_by_role("textbox").fill("<b>Harvest</b> plans")
    signed_in.get_by_role("button", name="Rename").click()
    expect(signed_in.get_by_role("heading", level=1)).to_have_text("<b>Harvest</b> plans")
    choose("Flag")
    signed_in.get_by_role("button", name="Flag", exact=True).click()
    expect(signed_in.get_by_role("navigation")).to_contain_text("flagged")
    signed_in.keyboard.press("Control+k")
    expect(signed_in.get_by_label("Search sessions")).to_be_focused()
    signed_in.keyboard.type("Harvest")
    expect(signed_in.locator(".sessions li")).to_have_count(1)
    choose("Unflag")
    expect(signed_in.locator(".notice")).to_contain_text("role")  # that is for administrators
    stored = service.http.get(f"/v1/sessions/{session_of(signed_in)}").json()
    assert (stored["title"], stored["flagged"]) == ("<b>Harvest</b> plans", True)


def test_everything_is_done_without_a_mouse(page: Page, service: Service) -> None:
    page.goto(service.url)
    expect(page.get_by_label("API key")).to_be_focused()
    page.keyboard.type(service.user_key)
    page.keyboard.press("Enter")
    message = page.get_by_label("Message", exact=True)
    expect(message).to_be_focused()
    page.keyboard.type("[[tokens=3000 rate=40]] Tell me.")
    page.keyboard.press("Control+Enter")
    wait_for_words(page, 5)
    page.keyboard.press("Escape")
    expect_ended(page, "stopped")
    page.get_by_role("button", name="This session").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("menuitem", name="Rename")).to_be_focused()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("menuitem", name="Flag")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="This session")).to_be_focused()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    page.get_by_label("Use keys without").uncheck()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="This session")).to_be_focused()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_have_count(0)
    page.keyboard.press("Control+Shift+O")
    expect(page.get_by_role("heading", name="New session")).to_be_visible()
    expect(message).to_be_focused()
    message.press("?")
    expect(message).to_have_value("?")


def outline(page: Page) -> str:
    """The width of the outline of the focused element."""
    return page.evaluate("getComputedStyle(document.activeElement).outlineStyle")


def test_the_focus_is_visible_at_each_stop(signed_in: Page) -> None:
    say(signed_in, "[[tokens=3]] Hello.")
    expect_ended(signed_in, "completed")
    stops = set()
    for _ in range(MOST_STOPS):
        signed_in.keyboard.press("Tab")
        name = signed_in.evaluate("document.activeElement.localName + '.' + document.activeElement.className")
        if name == "textarea.":
            break  # all the way round
        if name.startswith("body") or name == "input.":  # a field is outlined by its frame
            continue
        assert outline(signed_in) == "solid", name
        stops.add(name)
    assert {"a.new", "a.", "button.theme", "button.last", "div.scroll", "button.act"} <= stops, stops
    assert name == "textarea."


def test_a_reader_who_scrolled_up_stays_there_and_is_told_of_new_text(signed_in: Page, until: Until) -> None:
    say(signed_in, "[[tokens=3000 rate=40 pad=30]] Tell me.")
    place = "document.querySelector('.scroll')"
    until(f"{place}.scrollHeight > 2 * {place}.clientHeight")
    at_end = f"{place}.scrollHeight - {place}.scrollTop - {place}.clientHeight"
    until(f"{at_end} < 80")
    signed_in.evaluate(f"{place}.scrollTop = 40")
    button = signed_in.get_by_role("button", name="New text below")
    expect(button).to_be_visible()
    height = signed_in.evaluate(f"{place}.scrollHeight")
    until(f"{place}.scrollHeight > {height}")
    assert signed_in.evaluate(f"{place}.scrollTop") == 40
    button.click()
    expect(button).to_be_hidden()
    until(f"{at_end} < 80")
    signed_in.keyboard.press("Escape")
    expect_ended(signed_in, "stopped")
    until(f"{at_end} < 80")


def test_a_session_of_five_hundred_messages_opens_and_is_written_in(page: Page, service: Service) -> None:
    sign_in(page, service, service.user_key)
    say(page, "[[tokens=3]] Hello.")
    expect_ended(page, "completed")
    (turn,) = service.rows(f"/v1/sessions/{session_of(page)}/turns")
    text = (
        "A paragraph with *emphasis* and `code`.\n\n- one\n- two\n\n```python\nprint(1)\n```\n\n"
        + "word " * 200
    )
    ids = [f"01890000-0000-7000-8000-{number:012x}" for number in range(QUESTIONS)]

    def played(rows: list[dict]) -> object:
        body = json.dumps({"data": rows, "next_cursor": None})
        return lambda route: route.fulfill(body=body, content_type="application/json")

    turns = [{**turn, "id": each} for each in reversed(ids)]
    said = [("user", "Why?"), ("assistant", text)]
    messages = [
        {"turn_id": each, "role": role, "content": content, "status": "complete"}
        for each in ids
        for role, content in said
    ]

    def route(pattern: str, rows: list[dict]) -> None:
        answer = played(rows)

        def send(request: Route) -> None:
            if request.request.method == "GET":
                answer(request)
            else:
                request.fallback()

        page.route(pattern, send)

    route("**/v1/sessions/*/turns?*", turns)
    route("**/v1/sessions/*/messages?*", messages)
    page.reload()
    expect(page.locator(".exchange")).to_have_count(QUESTIONS)
    expect(last(page)).to_be_in_viewport()
    assert page.locator("code").count() == 2 * QUESTIONS
    type_and_count = """async () => {
      const message = document.querySelector(".composer textarea");
      let drawn = 0;
      const observer = new MutationObserver((records) => { drawn += records.length; });
      const all = { attributes: true, characterData: true, childList: true, subtree: true };
      observer.observe(document.querySelector(".log"), all);
      for (let key = 0; key < 20; key += 1) {
        message.value += "x";
        message.dispatchEvent(new Event("input", { bubbles: true }));
        await new Promise((resolve) => requestAnimationFrame(() => setTimeout(resolve)));
      }
      observer.disconnect();
      return drawn;
    }"""
    # Once the page has come to rest, what is written costs nothing of the conversation's length.
    wait_until(lambda: page.evaluate(type_and_count) == 0, "keys that draw nothing anew")
