"""Options from environment variables, laid over what the file says.

`RELAYPACS_<SECTION>__<OPTION>` sets one option (`RELAYPACS_RECEIVE__PORT=11113`); `RELAYPACS_CALLER`, `…_DESTINATION`
and `…_RULE` replace that whole list by a TOML array of inline tables. DATABASE_URL, REDIS_URL, SENTRY_DSN, LOG_LEVEL
and DEBUG keep the meaning they have everywhere, weaker than the former. Each may be given as `…_FILE`. An empty
variable is none.
Text is taken as it stands; numbers, booleans and arrays as in TOML; a list of texts also as `A,B`.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterator, Mapping

from pydantic import BaseModel

from relaypacs.config.places import Location, Problem
from relaypacs.config.problems import LISTS, SECTIONS
from relaypacs.config.secrets import read_variable

_PREFIX = "RELAYPACS_"
_FILE = "_FILE"
_WELL_KNOWN: dict[str, Location] = {
    "DEBUG": ("log", "level"),
    "LOG_LEVEL": ("log", "level"),
    "DATABASE_URL": ("jobs", "url"),
    "REDIS_URL": ("redis", "url"),
    "SENTRY_DSN": ("sentry", "dsn"),
    "SENTRY_ENVIRONMENT": ("sentry", "environment"),
}
_BOOLEANS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
_LEVELS = {"warn": "warning", "fatal": "critical"}


def overlay(raw: dict[str, object], environ: Mapping[str, str]) -> tuple[dict[Location, str], list[Problem]]:
    """Lay the variables over `raw` (changed in place).

    Returns which variable set which option, and what is wrong with variables, each problem naming its own.
    """
    origins: dict[Location, str] = {}
    problems: list[Problem] = []
    for name, at in (*_WELL_KNOWN.items(), *_own(environ, problems)):
        try:
            text = read_variable(name, environ).strip()
            if not text:
                continue
            value = _level(name, text) if name in {"DEBUG", "LOG_LEVEL"} else _value(at, text)
            if value is not None:
                _put(raw, origins, at, value, name)
        except ValueError as error:
            problems.append(Problem((), f"environment {name}: {error}"))
    return origins, problems


def overlooked(environ: Mapping[str, str]) -> Iterator[str]:
    """Variables that look like an option but lack its double underscore. (Kubernetes sets such ones, as `tcp://…`.)"""
    for section, model in SECTIONS.items():
        for option in model.model_fields:
            name = f"{_PREFIX}{section}_{option}".upper()
            if environ.get(name) and not environ[name].startswith(("tcp://", "udp://")):
                yield f"environment {name} has no effect; write {_PREFIX}{section.upper()}__{option.upper()}"


def _level(name: str, text: str) -> str | None:
    if name == "LOG_LEVEL":
        return _LEVELS.get(text.lower(), text)
    if text.lower() not in _BOOLEANS:
        raise ValueError("write true or false")
    return "debug" if _BOOLEANS[text.lower()] else None


def _own(environ: Mapping[str, str], problems: list[Problem]) -> list[tuple[str, Location]]:
    """Our own variables by name without `_FILE`, each once; unknown ones become problems."""
    found: dict[str, Location] = {}
    for variable in sorted(environ):
        if not variable.startswith(_PREFIX):
            continue
        for name in (variable, variable.removesuffix(_FILE)):
            at = _location(name)
            if at:
                found[name] = at
                break
        else:
            if "__" in variable:
                problems.append(Problem((), f"environment {variable}: {_unknown(variable)}"))
    return list(found.items())


def _location(name: str) -> Location | None:
    section, _, option = name.removeprefix(_PREFIX).lower().partition("__")
    if section in LISTS and not option:
        return (section,)
    return (section, option) if section in SECTIONS and option in SECTIONS[section].model_fields else None


def _unknown(variable: str) -> str:
    section = variable.removeprefix(_PREFIX).lower().partition("__")[0]
    if section in LISTS:
        return f"a list can only be set as a whole: {_PREFIX}{section.upper()}, a TOML array of inline tables"
    names = [f"{_PREFIX}{one}__{option}".upper() for one, model in SECTIONS.items() for option in model.model_fields]
    close = difflib.get_close_matches(variable, names, n=1)
    return f"no such option{f'; did you mean {close[0]}?' if close else ''}"


def _value(at: Location, text: str) -> object:
    kind = "list" if len(at) == 1 else _kind(SECTIONS[str(at[0])], str(at[1]))
    if kind == "text":
        return text
    try:
        value = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        value = {}
    if list(value) == ["value"]:
        return value["value"] if kind != "texts" or isinstance(value["value"], list) else [text]
    if kind == "texts":
        return [part.strip() for part in text.split(",")]
    if kind == "list":
        raise ValueError("write a TOML array of inline tables, such as [{ae_title = 'CT_1'}]")
    return _BOOLEANS.get(text.lower(), text) if kind == "boolean" else text


def _kind(model: type[BaseModel], option: str) -> str:
    """`text`, `texts`, `boolean` or `number`, by the option's JSON schema."""
    schema = model.model_json_schema(mode="validation")["properties"][option]
    schema = next((one for one in schema.get("anyOf", ()) if one.get("type") != "null"), schema)
    return {"string": "text", "array": "texts", "boolean": "boolean"}.get(schema.get("type", "string"), "number")


def _put(raw: dict[str, object], origins: dict[Location, str], at: Location, value: object, name: str) -> None:
    if len(at) == 1:
        raw[str(at[0])] = value
    else:
        table = raw.setdefault(str(at[0]), {})
        if not isinstance(table, dict):  # the section itself is reported
            return
        table[str(at[1])] = value
    origins[at] = name
