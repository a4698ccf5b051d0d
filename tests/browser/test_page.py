"""The page against the whole service, as `turnkeeper up` runs it: a person sees what is stored."""

import re

import pytest
from playwright.sync_api import Page, expect

from tests.browser.running import Service, expect_ended, last, say, session_of, wait_for_words, words


def test_an_unknown_key_is_refused_in_words(page: Page, service: Service) -> None:
    page.goto(service.url)
    page.get_by_label("API key").fill("tsk_unknown")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("This key is not known, or no longer valid.")


def test_a_message_is_answered_word_by_word_and_what_is_shown_is_what_is_stored(
    signed_in: Page, service: Service
) -> None:
    say(signed_in, "[[tokens=60 rate=60]] Tell me.")
    wait_for_words(signed_in, 5)
    expect_ended(signed_in, "completed")
    expect(last(signed_in)).to_have_attribute("data-exact", "true")
    assert words(signed_in).split() == service.answer(session_of(signed_in)).split()
    turn = service.turn(last(signed_in).get_attribute("data-turn-id") or "")
    facts = last(signed_in).locator(".facts")
    expect(facts).to_contain_text(f"{turn['usage']['output_tokens']} out")
    expect(facts).to_contain_text("$")
    expect(signed_in.locator(".spent")).to_contain_text("out")
    expect(signed_in.get_by_role("navigation")).to_contain_text("Tell me.")


def test_a_service_key_is_asked_once_for_whom_it_acts(page: Page, service: Service) -> None:
    page.goto(service.url)
    page.get_by_label("API key").fill(service.service_key)
    page.get_by_role("button", name="Sign in").click()
    say(page, "[[tokens=3]] First.")
    page.get_by_role("dialog").get_by_role("textbox").fill("carol")
    page.get_by_role("button", name="Continue").click()
    expect_ended(page, "completed")
    first = session_of(page)
    page.get_by_role("link", name="New session").click()
    expect(page.get_by_role("heading", name="New session")).to_be_visible()
    say(page, "[[tokens=3]] Second.")
    expect_ended(page, "completed")
    sessions = [service.http.get(f"/v1/sessions/{each}").json() for each in (first, session_of(page))]
    assert first != session_of(page)
    assert [session["user"] for session in sessions] == ["carol", "carol"]


@pytest.mark.parametrize("way", ["button", "Escape"])
def test_stop_keeps_the_text_and_ends_the_cursor(signed_in: Page, service: Service, way: str) -> None:
    say(signed_in, "[[tokens=2000 rate=40]] Tell me at length.")
    wait_for_words(signed_in, 8)
    expect(signed_in.locator(".is-streaming")).to_have_count(1)
    if way == "button":
        signed_in.get_by_role("button", name="Stop").click()
    else:
        signed_in.keyboard.press("Escape")
    expect_ended(signed_in, "stopped")
    expect(last(signed_in).locator(".outcome")).to_have_text(
        re.compile(r"Stopped\. What was written is kept: \d+ words\.")
    )
    expect(last(signed_in).locator(".standing")).to_have_text("stopped")
    expect(last(signed_in)).to_have_attribute("data-exact", "true")
    stored = service.answer(session_of(signed_in))
    assert 8 <= len(stored.split()) < 2000
    assert words(signed_in).split() == stored.split()
    expect(signed_in.get_by_label("Message")).to_be_enabled()


def test_a_turn_that_shows_nothing_yet_can_be_stopped(signed_in: Page) -> None:
    say(signed_in, "[[hang_headers=1]] Are you there?")
    expect(last(signed_in).locator(".standing")).to_have_text("asking the model…")
    signed_in.get_by_role("button", name="Stop").click()
    expect_ended(signed_in, "stopped")
    expect(last(signed_in).locator(".outcome")).to_have_text("Stopped. Nothing had been written yet.")


def test_a_reload_in_mid_answer_carries_on_to_the_stored_text(signed_in: Page, service: Service) -> None:
    say(signed_in, "[[tokens=3000 rate=50]] Tell me.")
    wait_for_words(signed_in, 20)
    before = words(signed_in)
    signed_in.reload()
    wait_for_words(signed_in, 30)
    assert words(signed_in).startswith(before.rstrip())
    expect(signed_in.locator(".is-streaming")).to_have_count(1)
    signed_in.get_by_role("button", name="Stop").click()
    expect_ended(signed_in, "stopped")
    expect(last(signed_in)).to_have_attribute("data-exact", "true")
    assert words(signed_in).split() == service.answer(session_of(signed_in)).split()
    assert len(signed_in.locator(".exchange").all()) == 1


def test_what_was_thought_can_be_read_after_a_reload(signed_in: Page) -> None:
    say(signed_in, "[[tokens=10 reasoning=30]] Think.")
    expect_ended(signed_in, "completed")
    thoughts, summary = signed_in.locator(".thoughts"), signed_in.locator(".reasoning summary")
    summary.click()
    expect(thoughts).to_have_text(re.compile(r"(\S+\s+){20}"))
    thought = thoughts.inner_text()
    signed_in.reload()
    expect_ended(signed_in, "completed")
    expect(thoughts).to_have_text("")
    summary.click()
    expect(thoughts).to_have_text(thought)
    say(signed_in, "[[tokens=10]] Do not.")
    expect(signed_in.locator(".exchange")).to_have_count(2)
    expect_ended(signed_in, "completed")
    expect(summary.last).to_be_hidden()


def test_a_finished_conversation_is_the_same_after_a_reload(signed_in: Page) -> None:
    say(signed_in, "How does Stop work?")
    expect_ended(signed_in, "completed")
    expect(last(signed_in)).to_have_attribute("data-exact", "true")
    shown = last(signed_in).locator(".text").inner_html()
    signed_in.reload()
    expect_ended(signed_in, "completed")
    assert last(signed_in).locator(".text").inner_html() == shown


def test_a_question_that_was_refused_says_quietly_that_it_is_not_part_of_the_conversation(
    signed_in: Page,
) -> None:
    remark = "Not part of the conversation: the model is not sent it again."
    say(signed_in, "[[status=400]] Refuse this.")
    expect_ended(signed_in, "failed")
    expect(last(signed_in)).to_contain_text(remark)
    say(signed_in, "[[tokens=5]] And this?")
    expect(signed_in.locator(".exchange")).to_have_count(2)
    expect_ended(signed_in, "completed")
    expect(last(signed_in)).not_to_contain_text(remark)
    signed_in.reload()
    expect(signed_in.locator(".exchange").first).to_contain_text(remark)


def test_a_failed_turn_is_told_in_words_and_keeps_its_text(signed_in: Page, service: Service) -> None:
    say(signed_in, "[[tokens=40 rate=80 error_after=15 error_type=api_error]] Fail, please.")
    expect_ended(signed_in, "failed")
    error = service.turn(last(signed_in).get_attribute("data-turn-id") or "")["error"]
    expect(last(signed_in).locator(".outcome strong")).to_contain_text(error["title"])
    expect(last(signed_in)).to_have_attribute("data-exact", "true")
    assert words(signed_in).split() == service.answer(session_of(signed_in)).split()
    last(signed_in).get_by_role("button", name="Ask again").click()
    expect(signed_in.locator(".exchange")).to_have_count(2)
    expect(signed_in.locator(".question")).to_contain_text(["Fail, please.", "Fail, please."])
    expect_ended(signed_in, "failed")


def test_two_tabs_show_the_same_answer(signed_in: Page, service: Service) -> None:
    say(signed_in, "[[tokens=3]] Hello.")
    expect_ended(signed_in, "completed")
    other = signed_in.context.new_page()
    other.goto(service.url)
    other.get_by_label("API key").fill(service.user_key)
    other.get_by_role("button", name="Sign in").click()
    expect(other.get_by_label("Message")).to_be_visible()
    other.goto(signed_in.url)
    expect(other.locator(".state")).to_have_attribute("data-state", "live")
    say(signed_in, "[[tokens=40 rate=60]] And now?")
    expect(other.locator(".question").last).to_contain_text("And now?")
    expect_ended(other, "completed")
    expect(other.locator(".exchange")).to_have_count(2)
    expect(last(other)).to_have_attribute("data-exact", "true")


def test_a_closed_session_stays_readable(signed_in: Page) -> None:
    say(signed_in, "[[tokens=5]] Hello.")
    expect_ended(signed_in, "completed")
    signed_in.get_by_role("button", name="This session").click()
    signed_in.get_by_role("menuitem", name="Close session").click()
    signed_in.get_by_role("dialog").get_by_role("button", name="Close session").click()
    expect(signed_in.get_by_label("Message")).to_be_disabled()
    expect(signed_in.locator(".exchange")).to_have_count(1)


@pytest.mark.parametrize(("remember", "kept"), [(False, ["sessionStorage"]), (True, ["localStorage"])])
def test_the_key_is_kept_for_the_tab_unless_it_is_to_be_remembered(
    page: Page, service: Service, remember: bool, kept: list[str]
) -> None:
    page.goto(service.url)
    page.get_by_label("API key").fill(service.user_key)
    page.get_by_label("Remember on this device").set_checked(remember)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_label("Message")).to_be_visible()
    places = "['sessionStorage', 'localStorage'].filter((place) => 'turnkeeper.key' in window[place])"
    assert page.evaluate(places) == kept
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    assert page.evaluate(places) == []


def test_the_page_fits_a_phone_and_works_by_keyboard_alone(signed_in: Page) -> None:
    signed_in.set_viewport_size({"width": 390, "height": 844})
    say(signed_in, "What happens when a worker dies?")
    expect_ended(signed_in, "completed")
    assert signed_in.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    signed_in.get_by_role("button", name="Sessions").focus()
    signed_in.keyboard.press("Enter")
    link = signed_in.get_by_role("link", name="New session")
    expect(link).to_be_focused()
    expect(link).to_be_in_viewport()
    signed_in.keyboard.press("Enter")
    expect(signed_in.get_by_role("heading", name="New session")).to_be_visible()
    expect(signed_in.get_by_label("Message")).to_be_focused()
