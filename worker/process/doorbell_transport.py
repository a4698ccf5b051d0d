"""kombu's Redis transport without its bookkeeping of unacknowledged messages.

A doorbell carries no work: the row decides, and the sweeper rings again for whoever was not heard. What
kombu writes for each message, to give it out again after an hour, is a quarter of a turn's cost here.
"""

from typing import Any

from kombu.transport.redis import Channel, QoS, Transport


class ForgetfulQoS(QoS):
    """Forgets a message when it is given out."""

    def append(self, message: Any, delivery_tag: Any) -> None:
        """Note nothing."""

    def ack(self, delivery_tag: Any) -> None:
        """Note nothing."""

    def reject(self, delivery_tag: Any, requeue: bool = False) -> None:
        """Drop it: what it rang for is rung for again."""

    def restore_visible(self, *_arguments: Any, **_options: Any) -> None:
        """Give out nothing again."""

    def restore_unacked_once(self, stderr: Any = None) -> None:
        """Give out nothing again."""


class DoorbellChannel(Channel):
    """A channel of doorbells."""

    QoS = ForgetfulQoS


class DoorbellTransport(Transport):
    """The transport that Celery is told to use."""

    Channel = DoorbellChannel
