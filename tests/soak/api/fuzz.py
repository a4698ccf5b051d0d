"""Calls every operation of the OpenAPI page with valid and with invalid input.

Each response must be one that the page describes, in status, content type, headers and body, and never a 500. Ids
that exist are mixed in, because a random one is never found.
"""

import random
import re
import time
from collections import Counter
from contextlib import nullcontext, suppress
from typing import Any

import schemathesis
from flask import Flask
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.specs.openapi import checks

from shared.redis.limit_scripts import MOST_TURNS


def no_header_is_left_out(_context: Any, answer: Any, case: Any) -> None:
    described = case.operation.responses.find_by_status_code(answer.status_code).headers
    left_out = answer.headers.keys() - {name.lower() for name, _ in described.items()} - OF_ANY_ANSWER
    assert not left_out, f"{case.operation.label} answers {answer.status_code} with {sorted(left_out)}"


CHECKS = [
    checks.status_code_conformance,
    checks.content_type_conformance,
    checks.response_headers_conformance,
    checks.response_schema_conformance,
    no_header_is_left_out,
]
SERVER_ERROR = 500
OF_ANY_ANSWER = {
    "cache-control",
    "content-length",
    "content-type",
    "x-accel-buffering",
    "x-content-type-options",
}
"""Headers that are not an operation's own."""
SECONDS = re.compile(r"[0-9.]+(e[+-]?[0-9]+)?")
"""Any text that can be read as a time to wait: a whole number can also be written as 50.0."""
HARDLY_LIMITED = {
    "enabled": True,
    "daily_usd": None,
    "monthly_usd": None,
    "max_turns_per_session": None,
    "turns_per_minute_per_user": None,
    "turns_per_hour": MOST_TURNS,  # so that responses show what is left
    "max_concurrent_turns": None,
}


class Fuzz:
    """Counts answers by operation and status in `answers`."""

    def __init__(self, app: Flask, keys: list[str], *, start: int) -> None:
        """Fuzz `app` with `keys`, the first of which is an admin's, and without a key; `start` is the seed."""
        self.answers: Counter[tuple[str, int]] = Counter()
        self._app = app
        self._schema = schemathesis.openapi.from_wsgi("/openapi.json", app)
        self._keys = keys
        self._chance = random.Random(start)
        self._round = start

    @property
    def operations(self) -> list[str]:
        return [operation.ok().label for operation in self._schema.get_all_operations()]

    def run_for(self, seconds: float, examples: int) -> None:
        """Run rounds until the time is over; in each, every operation gets `examples` valid and invalid calls."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.go_round(examples)

    def go_round(self, examples: int) -> None:
        """Call each operation with `examples` valid and invalid inputs."""
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            for found in self._schema.get_all_operations():
                self._one(found.ok(), mode, examples)

    def _one(self, operation: Any, mode: GenerationMode, examples: int) -> None:
        known = self._what_exists()
        self._round += 1

        @seed(self._round)
        @settings(
            max_examples=examples,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def call(case: Any) -> None:
            self._name_what_exists(case, known)
            self._wait_for_nothing(case)
            key = self._chance.choice([*self._keys, *self._keys, ""])
            answer = case.call(headers={"Authorization": f"Bearer {key}"} if key else {})
            self.answers[operation.label, answer.status_code] += 1
            assert answer.status_code != SERVER_ERROR, case.as_curl_command()
            case.validate_response(answer, checks=CHECKS)

        # A call without input cannot be invalid.
        with suppress(Unsatisfiable) if mode is GenerationMode.NEGATIVE else nullcontext():
            call()

    def _what_exists(self) -> dict[str, str]:
        """Make one of each thing and return their ids by the parameters that name them."""
        client = self._app.test_client()

        def make(path: str, **body: Any) -> str:
            answer = client.post(path, json=body, headers={"Authorization": f"Bearer {self._keys[0]}"})
            assert answer.status_code in {201, 202}, answer.json
            return str(answer.json["id"])

        # The limits that an earlier round set may allow nothing.
        opened = client.put(
            "/v1/budget", json=HARDLY_LIMITED, headers={"Authorization": f"Bearer {self._keys[0]}"}
        )
        assert opened.status_code == 200, opened.json
        session = make("/v1/sessions", user="alice")
        turn = make(f"/v1/sessions/{session}/turns", content="Hello")
        return {"session_id": session, "turn_id": turn, "key_id": make("/v1/keys", role="service")}

    def _name_what_exists(self, case: Any, known: dict[str, str]) -> None:
        for part in (case.path_parameters, case.body):
            if isinstance(part, dict):
                for name in part.keys() & known.keys():
                    if self._chance.random() < 0.7:
                        part[name] = known[name]

    def _wait_for_nothing(self, case: Any) -> None:
        """Drop waits: no worker answers turns here, so a call that waits for one would wait for its whole time."""
        for part, name in ((case.query, "wait"), (case.body, "wait_ms")):
            if isinstance(part, dict) and SECONDS.fullmatch(str(part.get(name, ""))):
                part[name] = 0
