"""[sentry]: where errors are reported to, besides the log."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from relaypacs.config.options import Name
from relaypacs.config.section import Section


def _check_dsn(value: SecretStr) -> SecretStr:
    text = value.get_secret_value().strip()
    if not text:
        return SecretStr("")
    try:
        url = urlsplit(text)
        good = url.scheme in {"http", "https"} and bool(url.hostname and url.username) and url.port != 0
        good = good and url.path.rpartition("/")[2].isdigit() and text.isprintable()
    except ValueError:
        good = False
    if not good:
        raise ValueError("write the DSN as Sentry shows it: https://KEY@HOST/PROJECT")
    return SecretStr(text)


class Sentry(Section):
    """[sentry]: errors and crashes as Sentry events. Off without `dsn`; nothing of a peer or a patient is in them."""

    dsn: Annotated[SecretStr, AfterValidator(_check_dsn)] = Field(
        SecretStr(""),
        description="Sentry's DSN, https://KEY@HOST/PROJECT; empty reports nothing. SENTRY_DSN overrides it.",
    )
    environment: Name = Field(
        "production", description="Which environment events name. SENTRY_ENVIRONMENT overrides it."
    )
