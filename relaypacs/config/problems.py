"""Every problem of a configuration, found at once: each table on its own, then what they say of each other. Pure."""

from __future__ import annotations

import contextlib
import difflib
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from relaypacs.config.model import Config, Section
from relaypacs.config.places import Location, Problem

SECTIONS: Mapping[str, type[Section]] = {
    name: field.annotation
    for name, field in Config.model_fields.items()
    if isinstance(field.annotation, type) and issubclass(field.annotation, Section)
}
LISTS: Mapping[str, type[Section]] = {
    name: get_args(field.annotation)[0] for name, field in Config.model_fields.items() if name not in SECTIONS
}

_WORDS = {
    "bool_parsing": "write true or false",
    "bool_type": "write true or false",
    "int_parsing": "write a whole number",
    "int_type": "write a whole number",
    "int_from_float": "write a whole number",
    "float_parsing": "write a number",
    "float_type": "write a number",
    "finite_number": "write a finite number",
    "string_type": "write text, in quotation marks",
    "path_type": "write a path, in quotation marks",
    "tuple_type": 'write a list, such as ["…"]',
    "dict_type": 'write a table, such as { Modality = "CT" }',
    "too_short": "the list is empty",
}


def validate(raw: Mapping[str, object]) -> tuple[dict[str, Any], list[Problem]]:
    """Validate every table. Returns the good ones (in a list, None for each that isn't) and all problems."""
    good: dict[str, Any] = {}
    problems: list[Problem] = []
    for name in raw:
        if name not in Config.model_fields:
            problems.append(Problem((name,), _unknown(name, list(Config.model_fields), "section")))
    for name, model in SECTIONS.items():
        good[name] = _table(model, raw.get(name, {}), (name,), problems)
    for name, model in LISTS.items():
        items = raw.get(name, [])
        if not isinstance(items, list):
            problems.append(Problem((name,), f"write [[{name}]] with two brackets: there can be several"))
            items = []
        good[name] = tuple(_table(model, item, (name, number), problems) for number, item in enumerate(items))
    return good, problems


def names_of(raw: Mapping[str, object]) -> dict[Location, str]:
    """What each item of a list is called, also where it is otherwise wrong."""
    names: dict[Location, str] = {}
    for section in LISTS:
        items = raw.get(section)
        for number, item in enumerate(items if isinstance(items, list) else []):
            name = (item.get("name") or item.get("ae_title")) if isinstance(item, dict) else None
            if isinstance(name, str) and name.isprintable():
                names[section, number] = name[:64]
    return names


def _table(model: type[Section], table: object, at: Location, problems: list[Problem]) -> Section | None:
    if not isinstance(table, dict):
        header = f"[[{at[0]}]]" if len(at) > 1 else f"[{at[0]}]"
        problems.append(Problem(at, f"this is a table of options; write {header} and its options below"))
        return None
    try:
        return model.model_validate(table)
    except ValidationError as error:
        inside = {details["loc"][:1] for details in error.errors() if len(details["loc"]) > 1}
        for details in error.errors():
            # A list whose only item is wrong is said to be empty, too.
            if details["type"] != "too_short" or details["loc"] not in inside:
                problems += _problems(model, details, at)
        # Pydantic asks about the whole only when every part is good; people want to hear both at once.
        with contextlib.suppress(TypeError, AttributeError):
            problems += [Problem(at, text) for text in model.model_construct(None, **table).inconsistencies()]
        return None


def _problems(model: type[Section], details: ErrorDetails, at: Location) -> Iterator[Problem]:
    loc = tuple(part for part in details["loc"] if part != "[key]")
    kind, option = details["type"], str(loc[0]) if loc else ""
    field = model.model_fields.get(option)
    if kind == "extra_forbidden":
        yield Problem(at + loc, _unknown(option, list(model.model_fields), "option"))
    elif kind == "missing":
        yield Problem(at, f"{option} is missing: {field.description if field else ''}".rstrip(": "))
    elif not loc:
        return
    elif kind == "value_error":
        yield Problem(at + loc, str(details["ctx"]["error"]))
    else:
        text = _WORDS.get(kind) or details["msg"].replace("Input should be", "must be").replace("String should", "must")
        shown = isinstance(details["input"], str | int | float) and not _secret(model, option)
        quoted = f"{repr(details['input'])[:80]} is not possible: " if shown else ""
        default = "" if field is None or field.is_required() or field.default in (None, "", ()) else field.default
        yield Problem(at + loc, quoted + text + (f" (default: {_plain(default)})" if default != "" else ""))


def _secret(model: type[Section], option: str) -> bool:
    field = model.model_fields.get(option)
    return field is not None and "Secret" in str(field.annotation)


def _plain(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _unknown(name: str, known: list[str], what: str) -> str:
    close = difflib.get_close_matches(name.lower(), known, n=1)
    return f"no such {what}; " + (f"did you mean {close[0]}?" if close else f"there are {', '.join(known)}")
