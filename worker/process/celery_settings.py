"""Celery as a doorbell: the settings that survived our fault measurements, with one reason each.

Celery on Redis loses messages between taking and recording them, redelivers late and starts a task several
times; the claim in PostgreSQL makes each of these harmless, so Celery is told to try less.
"""

from typing import Any

from kombu.entity import Queue

from shared.redis.doorbell import KEY_PREFIX, QUEUE_NAME
from worker.process.doorbell_transport import HEARING_OPTION
from worker.process.hearing import Hearing


def celery_settings(redis_url: str, hearing: Hearing | None = None) -> dict[str, Any]:
    """Return the worker's Celery settings.

    Args:
        redis_url: The broker; a `unix://` URL is rewritten as kombu expects it.
        hearing: Is told when Redis answers the consumer; None if nobody asks.
    """
    return {
        "broker_url": redis_url.replace("unix://", "redis+socket://", 1)
        if redis_url.startswith("unix://")
        else redis_url,
        # Celery's own ends on a refusal, and takes the worker with it once its longest turn has ended.
        "worker_consumer": "worker.process.celery_consumer:DoorbellConsumer",
        "broker_transport": "worker.process.doorbell_transport:DoorbellTransport",
        # Acknowledged on receipt: the lease in PostgreSQL is the only redelivery. With late acknowledgement,
        # a restart of Redis ends the worker process (celery 5.7.0, 14 of 14 runs).
        "task_acks_late": False,
        "task_ignore_result": True,
        "result_backend": None,
        "task_serializer": "json",
        "accept_content": ["json"],
        "event_serializer": "json",
        # Remote control is a fan-out by which anyone on Redis can end workers.
        "worker_enable_remote_control": False,
        "worker_send_task_events": False,
        "task_send_sent_event": False,
        "worker_prefetch_multiplier": 1,
        "worker_disable_prefetch": True,
        "worker_cancel_long_running_tasks_on_connection_loss": False,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_pool_limit": 4,
        "task_publish_retry": False,
        "task_create_missing_queues": False,
        "task_default_queue": QUEUE_NAME,
        "task_queues": [Queue(QUEUE_NAME)],  # type: ignore[no-untyped-call]
        "broker_transport_options": {
            "global_keyprefix": KEY_PREFIX,
            "visibility_timeout": 3600,
            "unacked_restore_interval": 10,
            "unacked_restore_throttle": 1,
            "socket_timeout": 5,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 5,
            "max_connections": 20,
            "client_name": "turns",
            HEARING_OPTION: hearing,
        },
    }
