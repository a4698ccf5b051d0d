"""Builds the application of the web and the relay process from the configuration.

Both processes serve every path. They differ in the requests that are routed to them, so that open streams never
starve requests. Nothing connects or starts a thread before it is used: a server may fork after this.
"""

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from flask import Flask
from redis.backoff import NoBackoff
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.retry import Retry

from api.auth import Authenticator
from api.downloads import Downloads
from api.limits import TurnLimits
from api.metrics import ApiMetrics
from api.notices import Notice, Notices
from api.openapi import openapi
from api.operation import begin_request, end_request, forget_request, register_operations
from api.problems import register_problems
from api.redis_probe import Probe
from api.refusal_counts import Refusals
from api.relay import websocket
from api.relay.hub import Hub
from api.relay.places import ORGANIZATION_SHARE, USER_SHARE, StreamLimits, share_of
from api.requests import BODY_BYTES
from api.routes import OPERATIONS
from api.searches import Searches
from api.services import Services, provide
from api.site import site
from api.store import PostgresStreamStore
from api.streams import handshake_authenticator, origin_check
from api.ticket_limits import TicketLimits
from api.traces import trace_end, trace_requests
from api.waiting import Waiting
from shared import failpoints, open_files
from shared.configuration.settings import Settings, load_settings, log_shares
from shared.metrics import listener
from shared.metrics.listener import MetricsListener
from shared.metrics.registry import Registry
from shared.metrics.table import Service
from shared.observing.begin import begin_observing
from shared.postgres.database import Database
from shared.redis.client import redis_client
from shared.redis.cluster import refuse_cluster_at_boot
from shared.tracing.begin import begin_tracing
from shared.tracing.span import Recorder

if TYPE_CHECKING:
    from redis import Redis

_log = logging.getLogger("turnkeeper.api")

SHUTDOWN: Final = "turnkeeper_shutdown"
"""The key in `app.extensions` of the function that ends a process's streams when the process must end."""
GIVE_BACK: Final = "turnkeeper_give_back"
"""The key of the function that is given the server's own, which takes connections back whose stream has ended."""
BEGIN_METRICS: Final = "turnkeeper_begin_metrics"
"""The key of the function that starts a process's metrics, called in the serving process; it returns the listener
to stop at the end, or None."""
TENANT_OF: Final = "turnkeeper_tenant_of"
"""The key of the function that returns whose request has an `Authorization` header, as far as it is known."""
UNSERVED: Final = "turnkeeper_unserved"
"""The key of the function that counts a request which the server refused by itself, by its `ProblemCode`."""
_REDIS_SECONDS: Final = 2
_REDIS_CONNECTIONS: Final = 64
_WAITING_SHARE: Final = 2
"""One in this many request threads may wait for a turn's end."""
_DOWNLOADING_SHARE: Final = 4
"""One in this many request threads may send a download."""


def create_app(role: str = "web", settings: Settings | None = None) -> Flask:
    """Build the application.

    Args:
        role: `web` or `relay`; the process's name in logs.
        settings: The configuration; read from the environment if None.

    Raises:
        SettingsError: The configuration cannot run, the database's role is too powerful, or Redis is in cluster mode.
        UnavailableError: PostgreSQL cannot be reached.
    """
    if settings is None:
        settings = load_settings(os.environ)
        begin_observing(settings, role)
        failpoints.arm(os.environ, production=settings.production)
    for warning in settings.warnings:
        _log.warning("%s", warning)
    refuse_cluster_at_boot(settings.redis_url)
    recorder = begin_tracing(settings, role)
    parts = _build(settings, recorder)
    try:
        parts.database.refuse_powerful_role()
        parts.database.refuse_older_schema()
        parts.database.tell_session()
    finally:
        parts.database.dispose()  # a connection must not be shared across a fork
    app = Flask("turnkeeper", static_folder=None)
    # One more than is allowed: of a body of unknown length Werkzeug reads as much and says no word.
    app.config["MAX_CONTENT_LENGTH"] = BODY_BYTES + 1
    app.url_map.merge_slashes = False  # `//v1` is not found, rather than somewhere else
    provide(app, parts)
    app.before_request(begin_request)
    app.after_request(end_request)
    app.teardown_request(forget_request)
    if recorder is not None:
        trace_requests(app, recorder)
    register_problems(app)
    register_operations(app, OPERATIONS)
    websocket.register(
        app,
        parts.hub,
        authenticate=handshake_authenticator(parts.authenticator),
        origin_is_allowed=origin_check(settings),
    )
    app.extensions[SHUTDOWN] = lambda: _shut_down(parts)
    app.extensions[GIVE_BACK] = parts.hub.give_back_to
    app.extensions[TENANT_OF] = parts.authenticator.tenant_of
    app.extensions[UNSERVED] = parts.metrics.unserved
    app.extensions[BEGIN_METRICS] = lambda: _begin_metrics(parts, role)
    app.register_blueprint(openapi)
    app.register_blueprint(site)
    return app


def _build(settings: Settings, recorder: Recorder | None) -> Services:
    database = Database(
        settings.database_url, pool_size=settings.database_pool_size, prepare=settings.database_prepare
    )
    # Once, for a stale connection; we do not wait for a Redis that is down.
    redis = _redis(settings, retry=Retry(NoBackoff(), 1), max_connections=_REDIS_CONNECTIONS)
    lives_seconds = settings.queue_timeout_seconds + settings.turn_timeout_seconds + settings.log_ttl_seconds
    authenticator = Authenticator(database, redis)
    metrics = ApiMetrics(Registry())
    notices = Notices(
        redis,
        log_entries=settings.log_max_entries,
        log_ttl_seconds=int(lives_seconds),
        ended_ttl_seconds=settings.log_ttl_seconds,
        shares=log_shares(settings),
        told=metrics.told if recorder is None else _told_to(metrics, recorder),
    )
    store = PostgresStreamStore(database, notices, authenticator)
    return Services(
        settings=settings,
        database=database,
        redis=redis,
        # A Redis that hangs is asked once: whoever asks for readiness waits a few seconds for the answer, no longer.
        probe=Probe(
            _redis(settings, retry=Retry(NoBackoff(), 1, (RedisConnectionError,)), max_connections=1)
        ),
        authenticator=authenticator,
        limits=TurnLimits(settings, database),
        notices=notices,
        waiting=Waiting(database, settings.web_threads // _WAITING_SHARE),
        downloads=Downloads(settings.web_threads // _DOWNLOADING_SHARE),
        searches=Searches(settings.web_threads),
        ticket_limits=TicketLimits(settings.max_sockets),
        store=store,
        hub=Hub(settings.redis_url, store, _limits_of_streams(settings), _limits_of_waits(settings)),
        metrics=metrics,
        refusals=Refusals(database),
    )


def _redis(settings: Settings, **options: Any) -> "Redis":
    return redis_client(
        settings.redis_url,
        socket_timeout=_REDIS_SECONDS,
        socket_connect_timeout=_REDIS_SECONDS,
        # The peer of a unix socket cannot vanish unnoticed, and redis-py refuses the option for one.
        **({} if settings.redis_url.startswith("unix:") else {"socket_keepalive": True}),
        **options,
    )


def _shut_down(parts: Services) -> None:
    """End the streams, and add the counts that are not yet stored, so that a deploy loses none."""
    parts.hub.shutdown()
    parts.refusals.close()


def _told_to(metrics: ApiMetrics, recorder: Recorder) -> Callable[[Notice], None]:
    def told(notice: Notice) -> None:
        metrics.told(notice)
        trace_end(recorder, notice)

    return told


def _limits_of_streams(settings: Settings) -> StreamLimits:
    most = open_files.share(open_files.STREAMS)
    if settings.max_sockets > most:
        _log.info(
            "MAX_SOCKETS is more than the limit of open files allows: fewer streams are taken",
            extra={"asked": settings.max_sockets, "allowed": most, "open_files": open_files.limit()},
        )
    most_sockets = min(settings.max_sockets, most)
    of_organization = settings.streams_per_organization or share_of(most_sockets, ORGANIZATION_SHARE)
    return StreamLimits(
        most_sockets=most_sockets,
        most_sockets_per_key=of_organization,  # a product's back end may serve all of its users with one key
        most_sockets_per_organization=of_organization,
        most_sockets_per_user=settings.streams_per_user or share_of(of_organization, USER_SHARE),
        most_sockets_per_address=settings.streams_per_address,
    )


def _limits_of_waits(settings: Settings) -> StreamLimits:
    of_organization = share_of(settings.max_waits, ORGANIZATION_SHARE)
    return StreamLimits(
        most_sockets=settings.max_waits,
        most_sockets_per_key=of_organization,
        most_sockets_per_organization=of_organization,
        most_sockets_per_user=share_of(of_organization, USER_SHARE),
    )


def _begin_metrics(parts: Services, role: str) -> MetricsListener | None:
    parts.metrics.look_at(parts.hub, parts.notices, parts.database)
    return listener.begin(parts.settings, Service(role), parts.metrics.registry)
