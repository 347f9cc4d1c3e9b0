"""What is right as it is written and may fail all the same: files that are not there, expressions that may take for
ever. Warnings of `cross`, one sentence each; looks at whether files are there, and into none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from relaypacs.config.model import Config
from relaypacs.config.options import is_file_option
from relaypacs.config.section import Section
from relaypacs.policy.pattern import may_be_slow


def absent_files(config: Config) -> Iterator[str]:
    """PEM files that options name and nobody has put there. One that this user may not see is not said."""
    for place, section in _sections(config):
        for option, field in type(section).model_fields.items():
            if (place, option) == ("[log]", "file") or not is_file_option(field.metadata):
                continue
            path = getattr(section, option)
            try:
                if path:
                    Path(path).stat()
            except FileNotFoundError:
                yield f"{place} {option}: {path} is not there; put it there, or correct the option"
            except OSError:
                continue


def slow_patterns(config: Config) -> Iterator[str]:
    """Expressions that RE2 does not take."""
    for place, section in _sections(config):
        for option in type(section).model_fields:
            for pattern in _texts(getattr(section, option)):
                if _is_slow(pattern):
                    yield (
                        f"{place} {option}: {pattern!r} looks ahead or behind, or back at a group: on an unlucky value "
                        "that may take for ever, and nothing is taken in meanwhile; say it without if you can"
                    )


def _is_slow(text: str) -> bool:
    try:
        return may_be_slow(text)
    except ValueError:  # no pattern, but some other text that begins like one
        return False


def _sections(config: Config) -> Iterator[tuple[str, Section]]:
    """Every table, as messages call it."""
    for name in Config.model_fields:
        value = getattr(config, name)
        if isinstance(value, Section):
            yield f"[{name}]", value
        else:
            for number, one in enumerate(value, 1):
                yield f'{name}[{number}] "{getattr(one, "name", "") or getattr(one, "ae_title", "")}"', one


def _texts(value: object) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, tuple):
        yield from (one for one in value if isinstance(one, str))
    elif isinstance(value, Mapping):
        yield from (one for one in value.values() if isinstance(one, str))
