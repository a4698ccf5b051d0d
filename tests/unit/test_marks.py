"""What looks for secrets and content in all other tests does find them."""

import json
import logging
import secrets

import pytest

from shared.postgres.accounts import mint_key
from tests import marks
from turnkeeper.up.embedded.child import kept_secret


@pytest.fixture
def planted(request):
    """Logs with a listener of its own: what is planted here must not fail this test."""
    listener = marks.Listener()
    logger = logging.getLogger(f"planted.{request.node.name}")
    logger.setLevel(logging.DEBUG)
    logger.propagate = False
    logger.addHandler(listener)
    return logger, listener


def test_every_secret_that_is_made_carries_the_mark_and_is_another(tmp_path):
    made = {
        secrets.token_urlsafe(32),
        mint_key().secret,
        kept_secret(tmp_path / "password"),
        marks.marked("key"),
    }
    assert len(made) == 4
    assert all(marks.MARK in secret for secret in made)
    assert len(secrets.token_urlsafe(32)) == 43


def test_a_secret_and_content_in_a_log_line_are_heard(planted):
    logger, listener = planted
    logger.debug("harmless %s", "[] [[]] a[[1, 2]]")
    assert listener.heard == []
    logger.info("said", extra={"password": marks.marked("password")})
    logger.info("asked: %s", "[[tokens=3]] Hello")
    assert len(listener.heard) == 2
    assert marks.MARK not in str(listener.heard)
    assert "tokens" not in str(listener.heard)


def test_what_our_loggers_say_reaches_the_listener_of_all_tests(listener):
    for name in ("turnkeeper.x", "api.relay.x", "worker.x", "shared.x"):
        logging.getLogger(name).debug("key %s", marks.marked("key"))
    heard, listener.heard = listener.heard, []
    assert len(heard) == 4


def test_a_secret_in_a_file_is_found_unless_it_is_shown_on_purpose(tmp_path):
    state = json.dumps(
        {"service_key": "tsk_12345678_of-another-process", "redis_url": "redis://:p%40ssw0rd@h/0"}
    )
    known = marks.secrets_of({"MCP_LLM_API_KEY": "a-providers-key"}, state)
    file = tmp_path / "output"
    banner = "  service  tsk_12345678_of-another-process"
    file.write_text(f"started\n{banner}\nready\n")
    assert marks.leaks_in_files([file], known, shown=marks.banner_of(state)) == []
    for secret in (
        "tsk_12345678_of-another-process",
        "p@ssw0rd",
        "a-providers-key",
        marks.MARK,
        "[[rate=2]]",
    ):
        file.write_text(f"{banner}\nlogged in with {secret} again\n")
        (found,) = marks.leaks_in_files([file], known, shown=marks.banner_of(state))
        assert found.startswith("output: logged in with <")
