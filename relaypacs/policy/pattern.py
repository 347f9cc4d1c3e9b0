"""Patterns of the configuration: a glob (`CT_*`), or a regular expression after `re:`; each must match a whole value.

Rules, callers and destinations hold them, and what peers send is matched. Expressions run on RE2, in time that grows
with the value alone. What RE2 has no word for (lookahead, backreferences) runs on Python's `re`, which an unlucky value
may keep busy for ever: `may_be_slow` tells, and `config check` warns. Pure.
"""

from __future__ import annotations

import fnmatch
import functools
import re
from typing import Protocol

_REGEX = "re:"


class Pattern(Protocol):
    """A compiled pattern."""

    def fullmatch(self, value: str, /) -> object | None:
        """Something if it matches the whole of `value`, else None. Never fails."""


class _Linear:
    """An expression that RE2 runs; it knows bytes."""

    def __init__(self, expression: str, *, ignore_case: bool) -> None:
        import re2  # loaded where there are expressions: most configurations have none

        options = re2.Options()
        options.case_sensitive = not ignore_case
        options.log_errors = False
        try:
            self._compiled = re2.compile(_encoded(expression), options)
        except re2.error:
            raise ValueError from None

    def fullmatch(self, value: str, /) -> object | None:
        return self._compiled.fullmatch(_encoded(value)) or None


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "replace")


@functools.lru_cache(maxsize=4096)
def compile_pattern(pattern: str, *, ignore_case: bool = False) -> Pattern:
    """The pattern, compiled. ValueError with a sentence if it is no regular expression."""
    flags = re.IGNORECASE if ignore_case else re.NOFLAG
    if not pattern.startswith(_REGEX):
        return re.compile(fnmatch.translate(pattern), flags)
    expression = pattern.removeprefix(_REGEX)
    try:
        compiled = re.compile(expression, flags)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from None
    try:
        return _Linear(expression, ignore_case=ignore_case)
    except ValueError:
        return compiled


def is_literal(pattern: str) -> bool:
    """Whether only one value fits it: no expression, and nothing that stands for anything."""
    return not pattern.startswith(_REGEX) and not set(pattern) & set("*?[")


def may_be_slow(pattern: str) -> bool:
    """Whether an unlucky value may take it for ever. ValueError as `compile_pattern`."""
    return pattern.startswith(_REGEX) and not isinstance(compile_pattern(pattern), _Linear)
