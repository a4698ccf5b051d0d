"""`turnkeeper chat` as a person uses it, without a terminal."""

import subprocess
import sys

from tests.e2e.conftest import Service
from tests.e2e.protocol_client import LIMIT_SECONDS


def chat(stack: Service, key: str, said: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-m", "turnkeeper", "chat", "--url", stack.url, "--key", key],
        input=said,
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )


def test_a_chat_shows_each_answer_and_what_it_cost(stack: Service):
    finished = chat(stack, stack.key(), "[[text=one]] a\n\n[[text=two]] b\n/quit\n")
    assert finished.returncode == 0, finished.stderr
    lines = finished.stdout.splitlines()
    assert any(line.endswith("one") for line in lines)
    assert any(line.endswith("two") for line in lines)
    assert sum("completed (stop)" in line and "USD" in line for line in lines) == 2


def test_a_chat_with_a_wrong_key_says_so_in_one_line(stack: Service):
    finished = chat(stack, "tk_" + "0" * 40, "hello\n")
    assert finished.returncode == 1
    assert finished.stderr.startswith("turnkeeper: unauthorized")
    assert len(finished.stderr.splitlines()) == 1


def test_a_chat_with_an_address_that_can_be_none_is_refused(stack: Service):
    finished = subprocess.run(
        [sys.executable, "-m", "turnkeeper", "chat", "--url", "nowhere", "--key", "tk_secret"],
        capture_output=True,
        text=True,
        timeout=LIMIT_SECONDS,
        check=False,
    )
    assert finished.returncode == 2
    assert "url must be" in finished.stderr
    assert "tk_secret" not in finished.stderr
