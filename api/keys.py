"""API keys: an admin makes, lists and revokes the keys of its organization."""

from datetime import UTC, datetime
from typing import Final
from uuid import UUID

from api import models, queries, resources
from api.cursors import IdCursor
from api.operation import ADMINS, Call, Operation, Reply
from api.requests import invalid
from api.statements import keys
from api.statements.keys import ShownKey
from shared.errors import ProblemCode, RefusedError
from shared.postgres.accounts import KeyRole, insert_key, mint_key


def create_key(call: Call, body: models.NewKeyRequest) -> Reply:
    """Make a key; its secret is in this answer and nowhere else."""
    if (body.role is KeyRole.USER) is (body.user is None):
        raise invalid("/user", "is required for the role 'user' and refused for the others")
    if body.expires_at is not None and body.expires_at <= datetime.now(UTC):
        raise invalid("/expires_at", "must be in the future")
    organization_id = call.caller.organization_id
    key = mint_key()
    with call.services.database.of(organization_id) as db:
        key_id = insert_key(
            db,
            organization_id,
            key,
            role=body.role,
            user=body.user,
            name=body.name,
            expires_at=body.expires_at,
        )
        row = _found(keys.find_key(db, organization_id, key_id))
    return Reply(201, models.CreatedKey(**dict(resources.key(row)), key=key.secret))


def list_keys(call: Call, query: queries.Page) -> Reply:
    """List keys, newest first; revoked ones too."""
    before = None if query.cursor is None else IdCursor.decode(query.cursor).id
    organization_id = call.caller.organization_id
    with call.services.database.of(organization_id) as db:
        rows = keys.list_keys(db, organization_id, before=before, most=query.limit + 1)
    shown, last = resources.page(rows, query.limit)
    cursor = None if last is None else IdCursor(last.id).encode()
    data = [resources.key(row) for row in shown]
    return Reply(200, models.KeyList(data=data, next_cursor=cursor))


def revoke_key(call: Call, key_id: UUID) -> Reply:
    """Revoke a key; it stops working within seconds, on open streams within a minute."""
    with call.services.database.of(call.caller.organization_id) as db:
        is_known = keys.revoke_key(db, call.caller.organization_id, key_id)
    if not is_known:
        raise RefusedError(ProblemCode.NOT_FOUND, "there is no such key")
    call.services.authenticator.forget(key_id)
    return Reply(204)


def _found(row: ShownKey | None) -> ShownKey:
    if row is None:
        raise RefusedError(ProblemCode.NOT_FOUND, "there is no such key")
    return row


_TAG: Final = "Keys"
OPERATIONS: Final = (
    Operation(
        "POST",
        "/v1/keys",
        _TAG,
        {201: models.CreatedKey},
        create_key,
        body=models.NewKeyRequest,
        roles=ADMINS,
    ),
    Operation("GET", "/v1/keys", _TAG, {200: models.KeyList}, list_keys, query=queries.Page, roles=ADMINS),
    Operation(
        "DELETE", "/v1/keys/{key_id}", _TAG, {204: None}, revoke_key, (ProblemCode.NOT_FOUND,), roles=ADMINS
    ),
)
