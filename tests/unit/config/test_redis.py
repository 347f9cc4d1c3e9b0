"""[redis]: its URL is a secret, checked; REDIS_URL sets it; TLS options go together."""

from __future__ import annotations

import pytest

from relaypacs.config import Config, load_config, warnings
from relaypacs.config.show import show_config
from relaypacs.errors import ConfigError


def url_of(**environ: str) -> str:
    return load_config(None, environ).redis.url.get_secret_value()


def test_without_a_url_there_is_none() -> None:
    assert not Config().redis.configured
    assert not load_config(None, {"REDIS_URL": ""}).redis.configured


@pytest.mark.parametrize(
    "url",
    ["redis://cache", "redis://:hunter2@cache:6379/0", "rediss://relay:hunter2@cache:6380", "redis://[::1]:6379/15"],
)
def test_good_ones(url: str) -> None:
    assert url_of(REDIS_URL=url) == url
    assert url_of(REDIS_URL="redis://other", RELAYPACS_REDIS__URL=url) == url


@pytest.mark.parametrize(
    "url",
    [
        "cache:6379", "http://cache", "redis://", "redis://:6379", "redis://cache:0", "redis://cache:99999",
        "redis://cache/hunter2", "rediss://cache?ssl_cert_reqs=none", "redis://ca che", "redis://[::1",
    ],
)  # fmt: skip
def test_bad_ones_are_named_and_not_quoted(url: str) -> None:
    with pytest.raises(ConfigError) as caught:
        url_of(REDIS_URL=url)
    (problem,) = caught.value.problems
    assert problem.startswith("environment REDIS_URL: ")
    assert "write redis://" in problem
    assert "hunter2" not in problem


def test_the_url_is_never_shown() -> None:
    config = load_config(None, {"REDIS_URL": "redis://:hunter2@cache"})
    assert "hunter2" not in repr(config) + str(show_config(config))


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"RELAYPACS_REDIS__TLS_KEY_FILE": "/key.pem"}, "both `tls_certificate_file` and `tls_key_file`"),
        ({"RELAYPACS_REDIS__TLS_CA_FILE": "ca.pem"}, "write an absolute path"),
        ({"RELAYPACS_REDIS__TLS_CA_FILE": "/ca.pem", "REDIS_URL": "redis://cache"}, "are for rediss://"),
    ],
)
def test_tls_options(environ: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        load_config(None, environ)


@pytest.mark.parametrize(
    ("environ", "says"),
    [
        ({"RELAYPACS_REDIS__MAX_ASSOCIATIONS_PER_AE": "8"}, "no effect without [redis] url"),
        ({"REDIS_URL": "redis://:hunter2@cache"}, "travels unencrypted"),
        ({"REDIS_URL": "redis://:hunter2@127.0.0.1"}, ""),
        ({"REDIS_URL": "rediss://:hunter2@cache", "RELAYPACS_REDIS__MAX_ASSOCIATIONS_PER_AE": "8"}, ""),
        ({}, ""),
    ],
)
def test_what_is_hardly_meant_is_a_warning(environ: dict[str, str], says: str) -> None:
    found = [one for one in warnings(load_config(None, environ), environ) if "redis" in one]
    assert "hunter2" not in str(found)
    assert len(found) == bool(says)
    assert says in str(found)
