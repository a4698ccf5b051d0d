"""Whatever a statement answers, the relay's tasks go on: to them it is a database that is down."""

import asyncio

import psycopg
import pytest
from sqlalchemy.exc import ProgrammingError

from api.relay.questions import Questions
from shared.errors import UnavailableError


@pytest.mark.parametrize(
    "error",
    [
        psycopg.errors.InsufficientPrivilege("42501"),
        psycopg.errors.UndefinedFunction("42883"),
        psycopg.errors.DataCorrupted("XX001"),
        ProgrammingError("select", {}, psycopg.errors.SyntaxError("42601")),
    ],
)
def test_a_statement_that_is_refused_for_any_reason_is_an_outage(error):
    def ask():
        raise error

    async def work():
        questions = Questions()
        try:
            with pytest.raises(UnavailableError):
                await questions.ask(ask)
        finally:
            questions.close()

    asyncio.run(work())
