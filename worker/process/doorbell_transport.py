"""kombu's Redis transport without its bookkeeping of unacknowledged messages.

A doorbell carries no work: the row decides, and the sweeper rings again if nobody answered. What kombu writes
for each message, in order to redeliver it after an hour, would be a quarter of a turn's cost.
"""

from typing import Any

from kombu.transport.redis import Channel, QoS, Transport


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


class DoorbellTransport(Transport):
    """The transport that Celery is configured to use."""

    Channel = DoorbellChannel
