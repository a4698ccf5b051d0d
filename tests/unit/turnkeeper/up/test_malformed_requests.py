import json
import logging

import pytest
from gunicorn.http.errors import InvalidHeader, InvalidRequestLine, InvalidResponseHeader, LimitRequestHeaders

from turnkeeper.up.malformed_requests import refusal_of


@pytest.mark.parametrize(
    ("error", "status", "code"),
    [
        (InvalidHeader("Authorization: my key"), 400, "invalid_request"),
        (InvalidRequestLine("my key"), 400, "invalid_request"),
        (LimitRequestHeaders("my key"), 400, "invalid_request"),
        (InvalidResponseHeader("my key"), 500, "internal"),
        (ValueError("my key"), 500, "internal"),
    ],
)
def test_what_could_not_be_read_is_repeated_neither_to_the_client_nor_in_the_log(
    error, status, code, caplog
):  # I10
    with caplog.at_level(logging.INFO):
        counted, answer = refusal_of(error)
    head, _, body = answer.partition(b"\r\n\r\n")
    assert counted.value == code
    assert head.startswith(f"HTTP/1.1 {status} ".encode())
    problem = json.loads(body)
    assert (problem["status"], problem["code"]) == (status, code)
    assert f"Content-Length: {len(body)}".encode() in head
    assert problem["request_id"].encode() in head
    (record,) = caplog.records
    assert record.request_id == problem["request_id"]
    assert b"my key" not in head + body
    assert "my key" not in record.getMessage()
