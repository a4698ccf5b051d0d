"""Messages to workers say a turn's id and its trace, wherever they are made, and what looks at them sees more."""

import ast
import base64
import json
from pathlib import Path

import pytest

from shared.ids import new_id
from shared.redis.doorbell import TASK_NAME, doorbell
from tests.doorbells import WrongMessageError, check_message, check_push
from tests.marks import marked

ROOT = Path(__file__).parents[4]
SENDERS = {"send_task", "apply_async", "publish_task", "signature", "lpush", "rpush"}
TRACE = f"00-{'a' * 32}-{'b' * 16}-01"
CELERYS = {
    "body": base64.b64encode(
        json.dumps([["01890a5d-ac96-774b", TRACE], {}, {"chain": None}]).encode()
    ).decode(),
    "headers": {"task": TASK_NAME, "argsrepr": f"('01890a5d-ac96-774b', '{TRACE}')", "origin": "gen12@host"},
    "properties": {"body_encoding": "base64", "priority": 0},
}


def test_messages_are_made_in_two_places_only():
    """Whoever adds a third lets it be checked, too."""
    found = set()
    for package in ("api", "worker", "shared", "turnkeeper"):
        for file in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Attribute) and node.attr in SENDERS:
                    found.add((str(file.relative_to(ROOT)), node.attr))
                if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("doorbell"):
                    found.add((str(file.relative_to(ROOT)), "doorbell"))
    assert found == {
        ("api/notices.py", "lpush"),
        ("api/notices.py", "doorbell"),
        ("worker/process/ringer.py", "lpush"),
        ("worker/process/ringer.py", "doorbell"),
    }


def test_what_the_api_writes_and_what_celery_writes_say_nothing_else():
    for message in (doorbell(new_id(), TRACE).decode(), doorbell(new_id(), "").decode(), json.dumps(CELERYS)):
        check_message(message)


@pytest.mark.parametrize("said", ["[[tokens=3]] Hello", "a secret", "alice"])
def test_a_message_that_says_more_is_refused_and_not_repeated(said):
    said = marked("key") if said == "a secret" else said
    body = base64.b64encode(json.dumps([[said, ""], {}, {}]).encode()).decode()
    for wrong in (
        CELERYS | {"body": body},
        CELERYS | {"headers": CELERYS["headers"] | {"argsrepr": f"('{said}',)"}},
        CELERYS | {"headers": CELERYS["headers"] | {said: None}},
        CELERYS | {"user": said},
    ):
        shown = json.dumps(json.dumps(wrong))[1:-1]
        check_push(["LPUSH", "tk:{session}:log", shown])
        with pytest.raises(WrongMessageError) as refused:
            check_push(["LPUSH", "turns:turns", shown])
        assert said not in str(refused.value)
