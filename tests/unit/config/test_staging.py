"""[staging] with a bucket, and what callers may ask of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from relaypacs.config import load_config
from relaypacs.config.cross import warnings
from relaypacs.config.secrets import storage_keys
from relaypacs.errors import ConfigError

BUCKET = '[staging]\nkind = "s3"\nbucket = "relay"\n'


def problems(tmp_path: Path, text: str, **environ: str) -> str:
    file = tmp_path / "relaypacs.toml"
    file.write_text(text)
    with pytest.raises(ConfigError) as wrong:
        load_config(file, environ)
    return "\n".join(wrong.value.problems)


def loaded(tmp_path: Path, text: str, **environ: str):  # type: ignore[no-untyped-def]
    file = tmp_path / "relaypacs.toml"
    file.write_text(text)
    return load_config(file, environ)


def test_what_is_kept_by_default(tmp_path: Path) -> None:
    assert loaded(tmp_path, BUCKET).keep_seconds is None
    assert loaded(tmp_path, "").keep_seconds == 7 * 86400
    assert loaded(tmp_path, BUCKET + 'keep = "30d"').keep_seconds == 30 * 86400


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('[staging]\nkind = "s3"', "needs `bucket`"),
        ('[staging]\nbucket = "relay"', 'write kind = "s3"'),
        (BUCKET + 'kms_key_id = "k"', 'write encryption = "sse-kms"'),
        (BUCKET + 'region = "us-east-1"\nallowed_regions = ["eu-west-1", "eu-central-1"]', "us-east-1 is not among"),
        ('[staging]\nkind = "s3"\nbucket = "Relay"', "lower-case"),
        (BUCKET + 'prefix = "/a"', "names of letters"),
        (BUCKET + 'prefix = "a/../b"', "names of letters"),
        (BUCKET + 'endpoint = "minio:9000"', "write a URL"),
        (BUCKET + 'endpoint = "https://u:p@minio:9000"', "write a URL"),
        (BUCKET + 'endpoint = "https://minio:9000/relay"', "write a URL"),
        (BUCKET + "part_bytes = 1000", "5242880"),
        ('[[caller]]\nae_title = "CT"\nack = "staged"', 'write [staging] kind = "s3"'),
        (
            BUCKET + '[receive]\nack = "buffered"\n[[caller]]\nae_title = "CT"\nack = "staged"',
            "buffered promises nothing",
        ),
    ],
)
def test_what_can_not_be_is_refused_with_its_mend(tmp_path: Path, text: str, sentence: str) -> None:
    assert sentence in problems(tmp_path, text)


def test_credentials_come_whole_or_not_at_all(tmp_path: Path) -> None:
    assert "MINIO_SECRET_KEY is not set" in problems(tmp_path, BUCKET, MINIO_ACCESS_KEY="a")
    text = BUCKET + 'credentials_env = "STORE"'
    assert "STORE_ACCESS_KEY is not set" in problems(tmp_path, text, STORE_SECRET_KEY="s")
    assert storage_keys(loaded(tmp_path, BUCKET).staging, {}) is None
    secret = tmp_path / "secret"
    secret.write_text("s3cret\n")
    environ = {"MINIO_ACCESS_KEY": "a", "MINIO_SECRET_KEY_FILE": str(secret)}
    keys = storage_keys(loaded(tmp_path, BUCKET, **environ).staging, environ)
    assert keys is not None
    assert (keys.access_key, keys.secret_key, keys.session_token) == ("a", "s3cret", "")
    assert "s3cret" not in repr(keys)


def test_what_is_hardly_meant_is_a_warning(tmp_path: Path) -> None:
    text = BUCKET + 'encryption = "none"\nendpoint = "http://minio.example:9000"'
    told = "\n".join(warnings(loaded(tmp_path, text), {}))
    assert 'encryption = "none"' in told
    assert "use https" in told
    assert "staging" not in "\n".join(warnings(loaded(tmp_path, BUCKET), {}))
