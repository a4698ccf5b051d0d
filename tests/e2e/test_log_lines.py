"""The ids of log lines, in the logs of real processes."""

import json

from tests.e2e.conftest import Service
from tests.e2e.protocol_client import Api, wait_until


def lines_of(stack: Service) -> list[dict]:
    """Return the whole lines: the last of a file may be written at this moment."""
    return [
        json.loads(line)
        for file in stack.log_files()
        for line in file.read_text(errors="replace").splitlines(keepends=True)
        if line.startswith("{") and line.endswith("\n")
    ]


def test_every_line_of_a_request_and_of_a_turn_has_the_ids_that_are_known(stack: Service, api: Api):
    session = api.session(user="alice")
    turn = api.ask("[[tokens=5]] logged", session)["id"]
    api.get_turn(turn)
    # The provider refuses: lines of the adapter, from the loop, and of the attempt.
    failed = api.ask("[[status=400]] logged", session)["id"]

    def of_workers():
        return [
            line
            for line in lines_of(stack)
            if line["process"] == "worker" and line.get("turn_id") in {turn, failed}
        ]

    wait_until(
        lambda: len([line for line in of_workers() if line["message"] == "a turn ended"]) == 2, "the ends"
    )
    assert len({line["logger"] for line in of_workers()}) >= 2
    for line in of_workers():
        assert (line["session_id"], line["attempt"]) == (session, "1"), line
    for line in lines_of(stack):
        if line["logger"] == "turnkeeper.requests":
            assert line["request_id"], line
            wanted = {name for name in ("session_id", "turn_id") if f"<{name}>" in (line["route"] or "")}
            assert wanted <= line.keys() or line["status"] in {401, 403, 404}, line

    def accepted():
        return [
            line
            for line in lines_of(stack)
            if line["logger"] == "turnkeeper.requests"
            and line.get("turn_id") == turn
            and line["method"] == "POST"
        ]

    # A request is logged when it was answered.
    (line,) = wait_until(accepted, "the line of the post")
    assert line["session_id"] == session
