"""A running Turnkeeper for tests of the page, and a person's actions on it."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Locator, Page, expect

from tests import doorbells
from tests.marks import leaks_in_redis, secrets_of

START_LIMIT_SECONDS = 150.0
END_LIMIT_SECONDS = 60.0
PROJECT = Path(__file__).parents[2]


class Service:
    """A running Turnkeeper with the scripted provider."""

    def __init__(self, state: dict[str, Any]) -> None:
        self.url: str = state["url"]
        self.user_key: str = state["user_key"]
        self.service_key: str = state["service_key"]
        self.admin_key: str = state["admin_key"]
        self.provider_url: str = state["provider_url"]
        self.redis_url: str = state["redis_url"]
        self.owner_url: str = state["database_owner_url"]
        headers = {"Authorization": f"Bearer {self.service_key}"}
        self.http = httpx.Client(base_url=self.url, headers=headers, timeout=60, trust_env=False)

    def rows(self, path: str) -> list[dict[str, Any]]:
        return self.http.get(path, params={"limit": 100}).raise_for_status().json()["data"]

    def answer(self, session_id: str) -> str:
        """The stored text of a session's last answer."""
        messages = self.rows(f"/v1/sessions/{session_id}/messages")
        return next(message["content"] for message in reversed(messages) if message["role"] == "assistant")

    def turn(self, turn_id: str) -> dict[str, Any]:
        return self.http.get(f"/v1/turns/{turn_id}").raise_for_status().json()


def wait_until(is_true: Callable[[], object], what: str, limit_seconds: float = START_LIMIT_SECONDS) -> None:
    deadline = time.monotonic() + limit_seconds
    while not is_true():
        assert time.monotonic() < deadline, f"waited too long for: {what}"
        time.sleep(0.02)


@contextmanager
def running_service(folder: Path) -> Iterator[Service]:
    """The whole service with its data in `folder`, as `turnkeeper up` runs it."""
    folder.chmod(0o755)
    ours = ("MCP_", "ANTHROPIC_", "DATABASE_", "REDIS_", "SCRIPTED_", "TURNKEEPER_", "ENVIRONMENT")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    arguments = ["up", "--data", str(folder / "data"), "--state", str(folder / "state.json"), "--port", "0"]
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "turnkeeper", *arguments],
            cwd=folder,
            env={**environment, "PYTHONPATH": str(PROJECT), "DRAIN_SECONDS": "2"},
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
        try:
            state = folder / "state.json"
            wait_until(
                lambda: state.exists() or process.poll() is not None,
                "the service to start",
            )
            assert state.exists(), (folder / "output").read_text()
            running = Service(json.loads(state.read_text()))
            with running.http, doorbells.listening(running.redis_url):
                yield running
            assert leaks_in_redis(running.redis_url, secrets_of({}, state.read_text())) == []
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(END_LIMIT_SECONDS)


def sign_in(page: Page, service: Service, key: str) -> None:
    page.goto(service.url)
    page.get_by_label("API key").fill(key)
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("heading", name="New session")).to_be_visible()


def say(page: Page, message: str) -> None:
    page.get_by_label("Message").fill(message)
    page.get_by_label("Message").press("Enter")


def last(page: Page) -> Locator:
    return page.locator(".exchange").last


def words(page: Page) -> str:
    """The text of the last answer as it is shown."""
    return last(page).locator(".text").inner_text()


def session_of(page: Page) -> str:
    return page.url.rpartition("/")[2]


def wait_for_words(page: Page, count: int) -> None:
    expect(last(page).locator(".text")).to_have_text(re.compile(rf"(\S+\s+){{{count}}}"))


def expect_ended(page: Page, status: str) -> None:
    expect(last(page)).to_have_attribute("data-status", status)
    expect(page.locator(".is-streaming")).to_have_count(0)
