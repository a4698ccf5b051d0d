"""The files beside the data: who may read them, and what an old or broken one is worth."""

from dataclasses import asdict
from uuid import uuid4

from turnkeeper.up.records import Keys, State, read_keys, read_state, write_keys, write_state

STATE = State(
    "http://127.0.0.1:8080", "s", "u", "a", "postgresql://", "postgresql://", "redis://", "", 7, {"web": [8]}
)


def test_what_is_written_is_read_back_and_is_private(tmp_path):
    keys = Keys(uuid4(), "s", "u", "a")
    write_state(tmp_path / "state.json", STATE)
    write_keys(tmp_path / "keys.json", keys)
    assert asdict(read_state(tmp_path / "state.json")) == asdict(STATE)
    assert read_keys(tmp_path / "keys.json") == keys
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    assert len(list(tmp_path.iterdir())) == 2


def test_a_private_file_does_not_keep_an_open_mode_of_its_predecessor(tmp_path):
    path = tmp_path / "state.json"
    path.write_text("{}")
    path.chmod(0o644)
    write_state(path, STATE)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_missing_or_broken_file_counts_as_none(tmp_path):
    path = tmp_path / "x.json"
    assert read_state(path) is None
    assert read_keys(path) is None
    for broken in ("", "[]", "{}", '{"organization_id": "no"}', '{"url": "x"}'):
        path.write_text(broken)
        assert read_state(path) is None
        assert read_keys(path) is None


def test_no_secret_shows_in_a_repr():
    assert "secret" not in repr(Keys(uuid4(), "secret", "secret", "secret"))
    assert "secret" not in repr(
        State("u", "secret", "secret", "secret", "secret", "secret", "secret", "", 1, {})
    )
