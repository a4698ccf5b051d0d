"""The doorbell on a real Redis: Celery reads what the api writes, whichever version rings or receives."""

import json
import logging
from uuid import UUID

import pytest
from celery import Celery
from celery.worker import state
from celery.worker.request import Request
from redis import Redis

from shared.redis.doorbell import QUEUE_KEY, QUEUE_NAME, TASK_NAME, arguments_of, doorbell
from worker.process.celery_settings import celery_settings
from worker.process.celery_strategy import doorbell_strategy

TURN = UUID("01890a5d-ac96-774b-bcce-b302099a8057")
TRACE = f"00-{'a' * 32}-{'b' * 16}-01"


@pytest.fixture
def redis_client(redis_url):
    with Redis.from_url(redis_url) as client:
        yield client


@pytest.fixture
def celery_app(redis_url):
    app = Celery("test", set_as_current=False)
    app.conf.update(celery_settings(redis_url))
    yield app
    app.close()


@pytest.fixture
def hear(celery_app):
    """Returns the message that waits, as Celery's transport gives it to a consumer."""
    with celery_app.connection_for_read() as connection:
        channel = connection.default_channel
        queue = celery_app.amqp.queues[QUEUE_NAME](channel)
        queue.declare()

        def get():
            message = queue.get(no_ack=True)
            assert message is not None
            return message

        yield get


class Pool:
    """Keeps calls, to run them when the test says so."""

    def __init__(self):
        self.executor = self
        self.submitted = []

    def submit(self, function, *arguments):
        self.submitted.append((function, arguments))

    def run_all(self):
        for function, arguments in self.submitted:
            function(*arguments)


class Task:
    def __init__(self):
        self.called = []
        self.error = None

    def run(self, *arguments):
        self.called.append(arguments)
        if self.error is not None:
            raise self.error


class Consumer:
    def __init__(self):
        self.pool = Pool()


def handle(message, task):
    consumer = Consumer()
    doorbell_strategy(task, None, consumer)(message, None, None, None, [])
    return consumer.pool


def test_what_the_api_rings_is_a_message_of_celerys_own(redis_client, celery_app, hear):
    redis_client.lpush(QUEUE_KEY, doorbell(TURN, TRACE))
    message = hear()
    assert message.payload[0] == [str(TURN), TRACE]

    @celery_app.task(name=TASK_NAME)
    def run_turn(turn_id, traceparent):
        pass

    # As a worker with Celery's own strategy takes it: one of an earlier release.
    request = Request(
        message, app=celery_app, task=run_turn, headers=message.headers, body=message.body, decoded=False
    )
    assert (request.name, request.id) == (TASK_NAME, str(TURN))
    assert request.execute_using_pool  # it could be read


@pytest.mark.parametrize("by_celery", [False, True])
def test_a_worker_hears_whoever_rings(redis_client, celery_app, hear, by_celery):
    if by_celery:
        celery_app.send_task(TASK_NAME, args=[str(TURN), TRACE], queue=QUEUE_NAME, ignore_result=True)
    else:
        redis_client.lpush(QUEUE_KEY, doorbell(TURN, TRACE))
    task = Task()
    pool = handle(hear(), task)
    assert (
        len(state.reserved_requests) == 1
    )  # counted until it is done, so that no more than threads are fetched
    pool.run_all()
    assert task.called == [(str(TURN), TRACE)]
    assert len(state.reserved_requests) == 0


def test_a_task_that_raises_gives_its_place_back_and_is_logged(redis_client, hear, caplog):
    redis_client.lpush(QUEUE_KEY, doorbell(TURN, ""))
    task = Task()
    task.error = RuntimeError("a mistake")
    with caplog.at_level(logging.ERROR):
        handle(hear(), task).run_all()
    assert len(state.reserved_requests) == 0
    assert "a task failed" in caplog.text


@pytest.mark.parametrize("body", [b"", b"no json", b"{}", b'["text"]', b"17"])
def test_what_is_no_doorbell_is_dropped(redis_client, hear, caplog, body):
    redis_client.lpush(QUEUE_KEY, doorbell(TURN, ""))
    message = hear()
    message.body = body
    task = Task()
    with caplog.at_level(logging.ERROR):
        assert handle(message, task).submitted == []
    assert "no doorbell" in caplog.text
    assert len(state.reserved_requests) == 0


def test_arguments_survive_the_way():
    assert arguments_of(json.loads(doorbell(TURN, TRACE))["body"]) == [str(TURN), TRACE]
