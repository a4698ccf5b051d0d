"""kombu's Redis transport without its bookkeeping of unacknowledged messages.

A doorbell carries no work: the row decides, and the sweeper rings again if nobody answered. What kombu writes
for each message, in order to redeliver it after an hour, would be a quarter of a turn's cost.

Whatever Redis answers but a doorbell or nothing is a lost connection here: of a consumer that only waits, no command
is wrong, so a refusal is about the server (`shared.redis.refusals`).
"""

from queue import Empty
from typing import Any, Final

from kombu.transport.redis import Channel, QoS, Transport
from redis.exceptions import RedisError

HEARING_OPTION: Final = "hearing"
"""The transport's option that holds the process's `worker.process.hearing.Hearing`."""


class ForgetfulQoS(QoS):
    """Forgets a message as soon as it is delivered."""

    def append(self, message: Any, delivery_tag: Any) -> None:
        """Record nothing."""

    def ack(self, delivery_tag: Any) -> None:
        """Record nothing."""

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """Drop the message: the sweeper rings again for its turn."""

    def restore_visible(self, *_arguments: Any, **_options: Any) -> None:
        """Redeliver nothing."""

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Redeliver nothing."""


class DoorbellChannel(Channel):
    """A channel of doorbells."""

    QoS = ForgetfulQoS

    def _brpop_read(self, **options: Any) -> Any:
        hearing = self.connection.client.transport_options.get(HEARING_OPTION)
        try:
            heard = super()._brpop_read(**options)  # type: ignore[no-untyped-call]
        except Empty:
            if hearing is not None:
                hearing.prove()
            raise
        if hearing is not None:
            hearing.prove()
        return heard


class DoorbellTransport(Transport):
    """The transport that Celery is configured to use."""

    Channel = DoorbellChannel
    connection_errors = (*Transport.connection_errors, RedisError)
