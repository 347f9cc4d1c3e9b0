"""`fallback` and `verify` of destinations: what can't be meant is refused, with the mend."""

from __future__ import annotations

from pathlib import Path

import pytest

from relaypacs.config import load_config, warnings
from relaypacs.errors import ConfigError

GATEWAY = '[[caller]]\nae_title = "CT"\n[[rule]]\nname = "all"\nto = ["a"]\n'


def write(path: Path, fallbacks: dict[str, str], more: str = "", staging: str = "") -> Path:
    """Destinations by name, each with its fallback, `more` in the first of them."""
    parts = [GATEWAY, staging]
    for number, (name, fallback) in enumerate(fallbacks.items()):
        parts.append(f'[[destination]]\nname = "{name}"\nkind = "dimse"\nhost = "{name}.example"\ncalled_ae = "PACS"\n')
        parts.append(f'fallback = "{fallback}"\n' if fallback else "")
        parts.append("" if number else more)
    file = path / "relaypacs.toml"
    file.write_text("".join(parts))
    return file


@pytest.mark.parametrize(
    ("fallbacks", "says"),
    [
        ({"a": "a"}, "is the destination itself"),
        ({"a": "b"}, "no [[destination]] is named 'b'"),
        ({"a": "b", "b": "a"}, "goes in a circle (a -> b -> a)"),
        ({"a": "b", "b": "c", "c": "a"}, "goes in a circle (a -> b -> c -> a)"),
        ({"x": "", "a": "b", "b": "c", "c": "b"}, "goes in a circle (b -> c -> b)"),
    ],
)
def test_a_fallback_that_is_none(tmp_path: Path, fallbacks: dict[str, str], says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, fallbacks), {})
    assert sum(says in problem for problem in caught.value.problems) == 1
    assert sum("circle" in problem for problem in caught.value.problems) == ("circle" in says)


def test_a_chain_and_two_with_one_fallback_are_none_of_these(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, {"a": "b", "b": "c", "c": "", "d": "c"}), {})
    assert [one.fallback for one in config.destination] == ["b", "c", "", "c"]


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ('verify = "qido"\n', "c-find for dimse, qido for dicomweb"),
        ('verify_called_ae = "QR"\n', 'are for verify = "c-find"'),
        ("verify_port = 4242\n", 'are for verify = "c-find"'),
        ('verify = "c-find"\nverify_called_ae = "LONGER_THAN_16_CHARACTERS"\n', "`verify_called_ae`"),
        ('verify = "c-find"\nverify_rounds = 11\n', "verify_rounds"),
    ],
)
def test_a_verification_that_is_none(tmp_path: Path, more: str, says: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(write(tmp_path, {"a": ""}, more), {})
    assert any(says in problem for problem in caught.value.problems), caught.value.problems


def test_what_is_not_kept_can_not_be_sent_again(tmp_path: Path) -> None:
    for keep, told in (("none", 1), ("7d", 0)):
        staging = f'[staging]\nkeep = "{keep}"\n'
        found = warnings(load_config(write(tmp_path, {"a": ""}, 'verify = "c-find"\n', staging), {}), {})
        assert sum("`verify` finds missing" in one for one in found) == told
