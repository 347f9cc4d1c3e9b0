"""A dicomweb destination's credentials, from the environment or from files it names (`credentials_env`).

Read anew for each request, so that a token or password that is rotated in its file is used at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from relaypacs.errors import ConfigError
from relaypacs.forward.sender import Credentials

_LONGEST_BYTES = 65536


def credentials_of(prefix: str, environment: Mapping[str, str]) -> Callable[[], Credentials]:
    """The credentials named by `prefix` ("" for none): <PREFIX>_TOKEN, or <PREFIX>_USERNAME and <PREFIX>_PASSWORD,
    each also as …_FILE with the path of a file that holds it.

    ConfigError, now or when the result is called, if none is set, one is half set or a file can't be read.
    """
    if not prefix:
        return Credentials

    def read() -> Credentials:
        token = _secret(f"{prefix}_TOKEN", environment)
        username, password = (_secret(f"{prefix}_{one}", environment) for one in ("USERNAME", "PASSWORD"))
        if bool(token) == bool(username) or bool(username) != bool(password) or ":" in username:
            raise ConfigError([f"set {prefix}_TOKEN, or {prefix}_USERNAME (no colon) and {prefix}_PASSWORD, or …_FILE"])
        return Credentials(token, username, password)

    read()
    return read


def _secret(name: str, environment: Mapping[str, str]) -> str:
    value, path = environment.get(name, ""), environment.get(f"{name}_FILE", "")
    if path and not value:
        try:
            with Path(path).open("rb") as file:
                value = file.read(_LONGEST_BYTES).decode().strip()
        except (OSError, UnicodeDecodeError):
            raise ConfigError([f"the file that {name}_FILE names can't be read as text"]) from None
    if not value.isprintable():
        raise ConfigError([f"{name} holds a character that no credential has"])
    return value
