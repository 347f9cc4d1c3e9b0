"""The node's folders and key."""

from __future__ import annotations

import os
import shutil
import stat
from pathlib import Path

import pytest

from relaypacs.config import Config
from relaypacs.errors import ConfigError
from relaypacs.node.home import empty_run_dir, hash_key, metrics_dir, prepare


def config_at(folder: Path) -> Config:
    return Config.model_validate({"node": {"state_dir": str(folder)}})


@pytest.fixture(autouse=True)
def _umask() -> object:
    before = os.umask(0o022)
    yield
    os.umask(before)


def test_folders_are_private_and_the_key_stays(tmp_path: Path) -> None:
    state = tmp_path / "state"
    config = config_at(state)
    first = prepare(config)
    assert len(first) == 64
    assert prepare(config) == first
    for place in (state, config.spool_dir, config.staging_dir, config.run_dir):
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
    assert stat.S_IMODE((state / "hash.key").stat().st_mode) == 0o600


def test_two_nodes_have_different_keys(tmp_path: Path) -> None:
    assert prepare(config_at(tmp_path / "a")) != prepare(config_at(tmp_path / "b"))


def test_the_key_can_be_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RELAYPACS_HASH_KEY", "k1")
    assert hash_key(tmp_path) == b"k1"
    secret = tmp_path / "secret"
    secret.write_text("k2\n")
    monkeypatch.setenv("RELAYPACS_HASH_KEY_FILE", str(secret))
    assert hash_key(tmp_path) == b"k2"
    assert not (tmp_path / "hash.key").exists()


def test_a_folder_that_cannot_be_made_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="state_dir"):
        prepare(config_at(tmp_path / "file" / "state"))


def test_run_dir_is_emptied(tmp_path: Path) -> None:
    (tmp_path / "alive").mkdir()
    (tmp_path / "alive" / "relay").write_text("")
    (tmp_path / "intake.sock").write_text("")
    empty_run_dir(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_metrics_are_kept_in_memory_and_start_empty(tmp_path: Path) -> None:
    place = metrics_dir(tmp_path, fresh=True)
    try:
        assert place.parent == Path("/dev/shm")
        assert stat.S_IMODE(place.stat().st_mode) == 0o700
        (place / "counter_1.db").write_text("")
        assert metrics_dir(tmp_path, fresh=False) == place
        assert list(place.iterdir()) != []
        assert metrics_dir(tmp_path, fresh=True) == place
        assert list(place.iterdir()) == []
        assert metrics_dir(tmp_path / "other", fresh=True) != place
    finally:
        for one in (place, metrics_dir(tmp_path / "other", fresh=True)):
            shutil.rmtree(one)
