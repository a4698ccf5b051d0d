"""Begins a turn's log again that Redis has lost, where its readers have all that was said."""

import logging
from datetime import UTC, datetime

import redis

from shared.redis.log_scripts import RESTART
from shared.redis.names import events_channel, log_key
from shared.turn.events import timestamp
from shared.turn.transcript import Transcript
from shared.turn.turns import TurnStatus
from worker.recovery.left_behind import Left

_log = logging.getLogger("turnkeeper.sweeper")


def begin_log_again(log: "redis.Redis", left: Left, attempt: int, ttl_seconds: int) -> None:
    """Publish the text so far under a number that no reader has passed.

    Args:
        log: The Redis that lost the log.
        left: What the dead attempt left.
        attempt: The next attempt's number.
        ttl_seconds: How long the log is kept.
    """
    turn, text = left.turn, left.answer
    transcript = Transcript.resume(
        seq=left.last_seq,
        attempt=attempt,
        status=TurnStatus.RUNNING,
        message_id=str(turn.answer_id),
        content=text.content,
        reasoning=text.reasoning,
    )
    snapshot = transcript.snapshot(turn.session_id, turn.id, timestamp(datetime.now(UTC)))
    keys = (log_key(turn.session_id, turn.id), events_channel(turn.session_id))
    try:
        log.eval(RESTART, 2, *keys, f"{attempt}-{left.last_seq}", snapshot, ttl_seconds)
    except redis.RedisError as error:
        _log.warning("a lost log cannot be begun again: %s", type(error).__name__)
