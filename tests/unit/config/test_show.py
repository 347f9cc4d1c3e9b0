"""What is shown can be loaded again, and shows no secret."""

import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaypacs.config import Config, load_config
from relaypacs.config.show import show_config, to_toml, toml_value

TEXT = """
[receive]
port = 104
[jobs]
url = "postgresql://u:hunter2@db/relay"
[[caller]]
ae_title = "CT"
[[destination]]
name = "pacs"
kind = "dimse"
host = "pacs"
called_ae = 'PA"CS'
[[rule]]
name = "all"
to = ["pacs"]
tags = { "0008,1010" = 're:a\\d"', StationName = "x" }
[staging]
hot_seconds = 2.0
"""


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "relaypacs.toml"
    path.write_text(TEXT)
    return load_config(path, {})


def test_all_of_it_can_be_written_as_json_and_toml(config):
    shown = show_config(config)
    assert shown.keys() == Config.model_fields.keys()
    assert json.loads(json.dumps(shown)) == shown
    again = tomllib.loads(to_toml(shown))
    assert again["receive"] == shown["receive"]
    assert again["rule"][0]["tags"] == {"0008,1010": 're:a\\d"', "StationName": "x"}
    assert "dir" not in again["spool"]


def test_only_what_was_changed(config):
    assert show_config(config, changed_only=True) == {
        "receive": {"port": 104},
        "caller": [{"ae_title": "CT"}],
        "jobs": {"url": "**********"},
        "destination": [{"name": "pacs", "kind": "dimse", "host": "pacs", "called_ae": 'PA"CS'}],
        "rule": [{"name": "all", "tags": {"0008,1010": 're:a\\d"', "StationName": "x"}, "to": ["pacs"]}],
    }
    assert show_config(Config(), changed_only=True) == {}


def test_no_secret_is_shown(config):
    for text in (str(show_config(config)), to_toml(show_config(config)), repr(config), str(config)):
        assert "hunter2" not in text
    assert "hunter2" in config.jobs_url


def test_changed_options_load_to_the_same_configuration(config, tmp_path):
    path = tmp_path / "again.toml"
    path.write_text(to_toml(show_config(config, changed_only=True)).replace('"**********"', '"sqlite:////x"'))
    again = load_config(path, {})
    assert again.model_dump(exclude={"jobs"}) == config.model_dump(exclude={"jobs"})


VALUES = st.recursive(
    st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab,\"' .é", max_size=5), inner, max_size=3),
    max_leaves=8,
)  # fmt: skip


@given(VALUES)
def test_any_value_comes_back(value):
    assert tomllib.loads(f"v = {toml_value(value)}") == {"v": value}
