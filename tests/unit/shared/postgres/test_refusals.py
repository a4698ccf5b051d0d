"""What the codes of PostgreSQL's refusals mean."""

import psycopg
import pytest
from psycopg import errors
from sqlalchemy.exc import DBAPIError

from shared.errors import ConflictError, NotServingError, UnavailableError
from shared.postgres.refusals import refusal_by, refusal_of

NOT_SERVING = (
    errors.ReadOnlySqlTransaction,
    errors.InsufficientPrivilege,
    errors.AdminShutdown,
    errors.CrashShutdown,
    errors.CannotConnectNow,
    errors.DiskFull,
    errors.OutOfMemory,
    errors.TooManyConnections,
    errors.IdleInTransactionSessionTimeout,
    errors.InFailedSqlTransaction,
    errors.ConnectionFailure,
    errors.InternalError_,
    errors.DataCorrupted,
    errors.IoError,
    errors.UndefinedTable,
    errors.UndefinedFunction,
    errors.InvalidSqlStatementName,
    errors.FeatureNotSupported,
)


@pytest.mark.parametrize("kind", NOT_SERVING)
def test_a_server_that_does_not_serve_us_is_away(kind: type[psycopg.Error]):
    for error in (kind("no"), DBAPIError("select 1", None, kind("no"))):
        assert type(refusal_of(error)) is NotServingError


@pytest.mark.parametrize("kind", [errors.SerializationFailure, errors.DeadlockDetected])
def test_a_transaction_that_gave_way_may_be_tried_again(kind: type[psycopg.Error]):
    assert type(refusal_of(kind("no"))) is ConflictError


@pytest.mark.parametrize("kind", [errors.QueryCanceled, errors.LockNotAvailable, psycopg.OperationalError])
def test_a_server_that_is_late_is_unavailable_and_its_connection_is_kept(kind: type[psycopg.Error]):
    assert type(refusal_of(kind("no"))) is UnavailableError


@pytest.mark.parametrize(
    "kind", [errors.UniqueViolation, errors.CheckViolation, errors.NumericValueOutOfRange, errors.SyntaxError]
)
def test_a_statement_that_is_wrong_is_told_as_it_is(kind: type[psycopg.Error]):
    assert refusal_of(kind("no")) is None


def test_no_error_of_the_drivers_means_nothing():
    assert refusal_of(ValueError("no")) is None
    assert refusal_by(None) is None
