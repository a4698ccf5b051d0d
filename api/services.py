"""The services that every request may use, built once by `create_app`; none connects before it is used."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from flask import Flask, current_app

from api.auth import Authenticator
from api.downloads import Downloads
from api.limits import TurnLimits
from api.metrics import ApiMetrics
from api.notices import Notices
from api.redis_probe import Probe
from api.refusal_counts import Refusals
from api.relay.hub import Hub
from api.searches import Searches
from api.store import PostgresStreamStore
from api.ticket_limits import TicketLimits
from api.waiting import Waiting
from shared.configuration.settings import Settings
from shared.postgres.database import Database

if TYPE_CHECKING:
    from redis import Redis

_EXTENSION: Final = "turnkeeper"


@dataclass(frozen=True, slots=True)
class Services:
    """The parts of a web or relay process."""

    settings: Settings
    database: Database
    redis: "Redis"
    probe: Probe
    authenticator: Authenticator
    limits: TurnLimits
    notices: Notices
    waiting: Waiting
    downloads: Downloads
    searches: Searches
    ticket_limits: TicketLimits
    store: PostgresStreamStore
    hub: Hub
    metrics: ApiMetrics
    refusals: Refusals

    def close(self) -> None:
        """End the streams, send waiting notices for a moment, and close every connection."""
        self.hub.shutdown()
        self.notices.close()
        self.refusals.close()
        self.redis.close()
        self.probe.close()
        self.limits.close()
        self.database.dispose()


def services() -> Services:
    """Return the running application's parts."""
    found: Services = current_app.extensions[_EXTENSION]
    return found


def provide(app: Flask, parts: Services) -> None:
    """Give `app` its parts."""
    app.extensions[_EXTENSION] = parts
