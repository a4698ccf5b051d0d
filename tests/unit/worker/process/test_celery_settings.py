from worker.process.celery_settings import celery_settings


def test_a_task_is_json_and_nobody_on_redis_commands_a_worker():
    settings = celery_settings("redis://127.0.0.1:6379/0")
    assert settings["accept_content"] == ["json"]
    assert settings["task_serializer"] == "json"
    assert settings["worker_enable_remote_control"] is False
