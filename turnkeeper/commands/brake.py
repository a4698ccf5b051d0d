"""`turnkeeper orgs stop`: ends everything that one organization has queued and running, as the API's stop does."""

from redis import Redis

from api.caller import Caller
from api.notices import Notices
from api.organization import stop_everything
from turnkeeper.commands.users import (
    LOG_ENTRIES,
    LOG_SECONDS,
    REDIS_SECONDS,
    Servers,
    application_database,
)
from turnkeeper.owner import organization


def stop(where: Servers, named: str) -> int:
    """Stop an organization's turns and print how many they were; what Redis cannot be told, PostgreSQL says later.

    Args:
        where: The servers that hold the data.
        named: Id or name of the organization.

    Raises:
        SettingsError: There is no such organization.
        UnavailableError: PostgreSQL cannot be reached; what was stopped stays stopped.
    """
    organization_id = organization(where.owner_url, named)
    redis = Redis.from_url(
        where.redis_url, socket_timeout=REDIS_SECONDS, socket_connect_timeout=REDIS_SECONDS
    )
    notices = Notices(
        redis, log_entries=LOG_ENTRIES, log_ttl_seconds=LOG_SECONDS, ended_ttl_seconds=LOG_SECONDS
    )
    with application_database(where.database_url) as database, redis:
        try:
            stopped = stop_everything(database, notices, Caller(organization_id, None, "service", None, None))
        finally:
            notices.close()
    print(f"queued turns ended:       {stopped.queued}")
    print(f"running turns stopped:    {stopped.running}")
    return 0
