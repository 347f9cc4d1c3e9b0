"""`relaypacs config check` and `config show`. Each returns its exit code; secrets never leave here unmasked."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path

from pydantic import BaseModel, SecretStr

from relaypacs.cli import say, settings
from relaypacs.config import warnings

MASK = "**********"
_USERINFO = re.compile(r"(?<=://)[^/@\s]+(?=@)")
"""User and password of a URL (RFC 3986 3.2.1)."""


def check(given: Path | None) -> int:
    """Load the configuration; its problems are the ConfigError that leaves here, its warnings are told."""
    place = settings.find(given)
    config = settings.load(given)
    for warning in warnings(config, os.environ):
        say.tell(f"relaypacs: warning: {warning}")
    counts = (
        say.counted(len(config.caller), "caller"),
        say.counted(len(config.destination), "destination"),
        say.counted(len(config.rule), "rule"),
    )
    say.out(f"{place} is fine: {', '.join(counts)}.")
    return 0


def show(given: Path | None, *, changed: bool, as_json: bool) -> int:
    """Print the configuration in force, as TOML or JSON; `changed`: only what differs from the defaults."""
    document = plain(settings.load(given), changed=changed)
    if as_json:
        say.out_json(document)
    else:
        for line in toml_lines(document):
            say.out(line)
    return 0


def plain(section: BaseModel, *, changed: bool) -> dict[str, object]:
    """A section as plain values that JSON and TOML have, secrets masked; `changed`: without defaults."""
    document: dict[str, object] = {}
    for name, about in type(section).model_fields.items():
        value = getattr(section, name)
        default = about.get_default(call_default_factory=True) if not about.is_required() else None
        if changed and not about.is_required() and value == default:
            continue
        document[name] = _plain_value(value, changed=changed)
    return document


def _plain_value(value: object, *, changed: bool) -> object:
    if isinstance(value, BaseModel):
        return plain(value, changed=changed)
    if isinstance(value, SecretStr):
        return MASK
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, str):
        return _USERINFO.sub(MASK, value)
    if isinstance(value, Mapping):
        return {str(key): _plain_value(one, changed=changed) for key, one in value.items()}
    if isinstance(value, (tuple, list)):
        return [_plain_value(one, changed=changed) for one in value]
    return value


def toml_lines(document: Mapping[str, object]) -> list[str]:
    """A configuration of plain values as TOML, as a file of ours is written; what is None is left out."""
    lines: list[str] = []
    for name, value in document.items():
        for table in value if isinstance(value, list) else [value]:
            lines += [*([""] if lines else []), f"[[{name}]]" if isinstance(value, list) else f"[{name}]"]
            options = table.items() if isinstance(table, dict) else ()
            lines += [f"{key} = {_toml(one)}" for key, one in options if one is not None]
    return lines


def _toml(value: object) -> str:
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{json.dumps(key)} = {_toml(one)}" for key, one in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(_toml(one) for one in value) + "]"
    # JSON's strings, numbers and booleans are TOML's too, but for DEL.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
