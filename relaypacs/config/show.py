"""A configuration for people: what is in force, or only what differs from the defaults; secrets masked. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from relaypacs.config.model import Config


def show_config(config: Config, *, changed_only: bool = False) -> dict[str, Any]:
    """The configuration as JSON-ready tables, a set secret as asterisks.

    `changed_only` leaves out every option that has its default, and sections without any other.
    """
    shown: dict[str, Any] = config.model_dump(mode="json", exclude_defaults=changed_only)
    return {name: table for name, table in shown.items() if table or not changed_only}


def to_toml(shown: Mapping[str, Any]) -> str:
    """What `show_config` returns as TOML text; options without a value become comments."""
    tables = []
    for name, value in shown.items():
        if isinstance(value, list):
            tables += [_table(f"[[{name}]]", item) for item in value]
        else:
            tables.append(_table(f"[{name}]", value))
    return "\n".join(tables)


def toml_value(value: object) -> str:
    """One value as TOML: text, number, boolean, list or inline table."""
    if isinstance(value, Mapping):
        inside = ", ".join(f"{json.dumps(key)} = {toml_value(one)}" for key, one in value.items())
        return f"{{ {inside} }}" if inside else "{}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    if isinstance(value, bool | int | float):
        return str(value).lower()
    return json.dumps(str(value), ensure_ascii=False).replace("\x7f", "\\u007F")


def _table(header: str, options: Mapping[str, Any]) -> str:
    lines = [
        f"# {name} has no value" if value is None else f"{name} = {toml_value(value)}"
        for name, value in options.items()
    ]
    return "\n".join([header, *lines, ""])
