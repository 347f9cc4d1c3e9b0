"""`conf/relaypacs.toml`, rendered from the model: every option with its meaning, unit, bounds and default.

A test keeps the committed file equal to this; `python -m relaypacs.config.reference > conf/relaypacs.toml` writes it.
Prose stands behind `# `, options behind `#`: take that one character away to set an option.
"""

from __future__ import annotations

import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from relaypacs.config.model import Config
from relaypacs.config.problems import LISTS, SECTIONS
from relaypacs.config.section import Section
from relaypacs.config.show import toml_value

_WIDTH = 100
_TITLE = """
RelayPACS configuration. As it stands it says nothing: every option is a comment with its default.
Check a changed file with `relaypacs config check`; `relaypacs config show --changed` tells what
differs from the defaults.

An option can also come from the environment, which is stronger than this file:
  RELAYPACS_RECEIVE__PORT=11113                 an option of a section
  RELAYPACS_RECEIVE__AE_TITLES=RELAY,BACKUP     a list of text, or a TOML array
  RELAYPACS_CALLER, _DESTINATION, _RULE         all tables of that name: a TOML array of inline tables
  DATABASE_URL, REDIS_URL, LOG_LEVEL, DEBUG     as everywhere: [jobs] url, [redis] url, [log] level
Any of these names with _FILE behind it names a file that holds the value. Secrets belong there.
"""
_EXAMPLES: Mapping[str, tuple[Mapping[str, Any], ...]] = {
    "caller": ({"ae_title": "CT_1", "networks": ["10.20.0.0/16"]},),
    "destination": (
        {"name": "pacs", "kind": "dimse", "host": "pacs.hospital.example", "called_ae": "PACS"},
        {
            "name": "archive",
            "kind": "dicomweb",
            "url": "https://archive.hospital.example/dicom-web",
            "credentials_env": "ARCHIVE",
        },
    ),
    "rule": (
        {
            "name": "ct-of-room-1",
            "calling_ae": "CT_*",
            "modality": "re:CT|PT",
            "sop_class": "*Image Storage",
            "tags": {"StationName": "ROOM1*", "0018,1030": "re:.*CHEST.*"},
            "to": ["pacs", "archive"],
            "priority": 5,
        },
        {"name": "no-dose-reports", "sop_class": "XRayRadiationDoseSRStorage", "drop": True},
    ),
}


def render() -> str:
    """The whole file."""
    lines = [*_prose(_TITLE.strip()), ""]
    computed = Config()
    for name in Config.model_fields:
        model = SECTIONS.get(name) or LISTS[name]
        lines += ["", *_prose(inspect.cleandoc(model.__doc__ or ""))]
        if name in SECTIONS:
            unset: dict[tuple[str, str], object] = {
                ("spool", "dir"): computed.spool_dir,
                ("staging", "dir"): computed.staging_dir,
                ("staging", "keep"): computed.staging.kept,
                ("staging", "ca_bundle"): "/etc/ssl/certs/ca-certificates.crt",
            }
            unset["jobs", "url"] = computed.jobs_url
            values = {option: unset[at] for option in model.model_fields if (at := (name, option)) in unset}
            lines += [f"[{name}]", *_options(model, values, list(model.model_fields))]
            continue
        for number, example in enumerate(_EXAMPLES[name]):
            # The first example shows every option, the others what they are about.
            options = [
                option
                for option, field in model.model_fields.items()
                if option in example or _concerns(field.description or "", example, everything=number == 0)
            ]
            lines += ["", f"#[[{name}]]", *_options(model, example, options)]
    return "\n".join(lines) + "\n"


def _concerns(description: str, example: Mapping[str, Any], *, everything: bool) -> bool:
    """Whether an option is about the example's kind of destination, or about any kind where `everything` is shown."""
    about = description.partition(":")[0]
    return about == example.get("kind") or (everything and about not in {"dimse", "dicomweb"})


def _options(model: type[Section], values: Mapping[str, Any], options: list[str]) -> Iterator[str]:
    for option in options:
        field = model.model_fields[option]
        value = values.get(option, field.default_factory() if field.default_factory else field.default)  # type: ignore[call-arg]
        yield from _prose(" ".join(filter(None, (field.description, _bounds(model, option)))))
        yield f"#{option} = {toml_value(value)}"


def _bounds(model: type[Section], option: str) -> str:
    schema = model.model_json_schema()["properties"][option]
    if "enum" in schema:
        return f"One of {', '.join(map(toml_value, schema['enum']))}."
    least, most = schema.get("minimum"), schema.get("maximum")
    above = schema.get("exclusiveMinimum")
    if most is None:
        return "" if not least else f"At least {_number(least)}."
    return (
        f"Above {_number(above)}, at most {_number(most)}."
        if least is None
        else f"{_number(least)} to {_number(most)}."
    )


def _number(value: float) -> str:
    return str(int(value)) if value == int(value) else str(value)


def _prose(text: str) -> Iterator[str]:
    for line in text.splitlines():
        as_it_is = not line or line.startswith(" ")
        parts = [line] if as_it_is else textwrap.wrap(line, _WIDTH, break_on_hyphens=False)
        yield from (f"# {part}".rstrip() for part in parts)


if __name__ == "__main__":
    sys.stdout.write(render())
