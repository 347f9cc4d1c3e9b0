"""The types of options: what a value must look like, and the sentence that says so.

`config.model` is built of these. Each check returns the value, or raises ValueError with the mend. Pure.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr

from relaypacs.dicom.tags import tag_of
from relaypacs.dicom.uid import check_uid
from relaypacs.policy.aetitle import check_ae_title
from relaypacs.policy.hours import parse_hours
from relaypacs.policy.pattern import compile_pattern
from relaypacs.policy.retry import parse_schedule


def _check_name(value: str) -> str:
    if not (1 <= len(value) <= 63 and value[0] not in "_-" and set(value) <= _NAME_CHARACTERS):
        raise ValueError("write 1 to 63 lower-case letters, digits, `-` or `_`, beginning with a letter or digit")
    return value


def _check_schedule(value: str) -> str:
    parse_schedule(value)
    return value


def _check_hours(value: str) -> str:
    if value:
        parse_hours(value)
    return value.strip()


def _check_network(value: str) -> str:
    try:
        ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError("write a CIDR network such as 10.20.0.0/16 or fd00::/8, or a single address") from None
    return value


def _check_absolute(value: Path) -> Path:
    if not value.is_absolute():
        raise ValueError("write an absolute path: commands may run in another folder than the node")
    return value


def _check_folder(value: Path) -> Path:
    if not str(value).isprintable():
        raise ValueError("write a path without control characters")
    return _check_absolute(value)


def _check_file(value: str) -> str:
    if value:
        _check_folder(Path(value))
    return value


def _check_host(value: str) -> str:
    try:
        value.encode("idna")
        good = value.isprintable() and not set(value) & set(" /[]") and value.count(":") != 1  # no IPv6 has one
    except UnicodeError:  # an empty label, or one of more than 63 characters
        good = False
    if not good:
        raise ValueError("write a host name or an address, such as pacs.example or 10.0.0.1, without the port")
    return value


def _check_caller_pattern(value: str) -> str:
    if not value.strip() or not value.isascii() or not value.isprintable() or "\\" in value:
        raise ValueError("write an AE title (ASCII, no backslash or control character), in which `*` and `?` match")
    title = value.strip()
    if (longest := len(title.replace("*", ""))) > 16:  # PS3.5 6.2
        raise ValueError(f"no AE title is like that: it has 1 to 16 characters, not {longest}")
    return title


def _check_endpoint(value: str) -> str:
    endpoint(value)
    return value


def endpoint(text: str) -> tuple[str, int]:
    """Host and port of `HOST:PORT` or `[ADDRESS]:PORT`; ValueError with the mend."""
    host, _, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    host = host[1:-1] if bracketed else host
    if not host or (":" in host) != bracketed or not (port.isascii() and port.isdigit() and int(port) <= 65535):
        raise ValueError("write HOST:PORT such as 10.0.0.1:104, or [ADDRESS]:PORT such as [::]:11112")
    return host, int(port)


def _check_pattern(value: str) -> str:
    compile_pattern(value)
    return value


def _check_tag(value: str) -> str:
    tag_of(value)
    return value


def _check_keep(value: str) -> str:
    if not re.fullmatch(r"none|forever|[1-9][0-9]{0,4}d", value):
        raise ValueError("write none, forever, or a number of days such as 7d")
    return value


def _check_variable_prefix(value: str) -> str:
    if not re.fullmatch(r"([A-Z][A-Z0-9_]*)?", value):
        raise ValueError("write what the variables' names begin with, such as ORTHANC for ORTHANC_USERNAME")
    return value


def _check_jobs_url(value: SecretStr) -> SecretStr:
    scheme, _, rest = value.get_secret_value().strip().partition("://")
    if scheme in {"postgres", "postgresql"}:
        scheme = "postgresql+psycopg"
    if scheme == "sqlite":
        if not rest.startswith("//"):
            raise ValueError("a SQLite job table needs an absolute file: sqlite:////var/lib/relaypacs/jobs.sqlite")
    elif scheme != "postgresql+psycopg":
        raise ValueError("write postgresql://USER:PASSWORD@HOST:PORT/DATABASE or sqlite:////FILE")
    return SecretStr(f"{scheme}://{rest}")


def base_url_problems(text: str) -> Iterator[str]:
    """What keeps `text` from being the base URL of a DICOMweb service; it may hold a password, so it isn't quoted."""
    try:
        url = urlsplit(text)
        good = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0 and text.isprintable()
    except ValueError:
        good = False
    if not good:
        yield "a dicomweb destination needs `url`, such as https://pacs.example/dicom-web"
    elif "@" in url.netloc:
        yield "keep user and password out of `url`; name their variables with `credentials_env`"
    elif url.path.rstrip("/").endswith("/studies"):
        yield "`url` is the base of the service: leave out `/studies`, it is added"
    elif set(text) & set(" ?#"):
        yield "`url` is the base of the service, without blanks, `?` or `#`"


def _check_bucket(value: str) -> str:
    # Amazon S3 User Guide, general purpose bucket naming rules.
    if value and not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", value):
        raise ValueError("write 3 to 63 lower-case letters, digits, `-` or `.`")
    return value


def _check_key_prefix(value: str) -> str:
    if value and not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9._-]*(/[A-Za-z0-9_][A-Za-z0-9._-]*)*", value):
        raise ValueError("write names of letters, digits, `_`, `-` or `.`, with `/` between them and none at an end")
    return value


def _check_service_url(value: str) -> str:
    try:
        url = urlsplit(value)
        good = url.scheme in {"http", "https"} and bool(url.hostname) and url.port != 0 and value.isprintable()
    except ValueError:
        good = False
    if value and (not good or "@" in value or url.path.strip("/") or url.query or url.fragment):
        raise ValueError("write a URL without path, user or password, such as https://minio.hospital.example:9000")
    return value.rstrip("/")


def _check_region(value: str) -> str:
    if value and not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", value):
        raise ValueError("write the name of a region, such as eu-central-1")
    return value


def is_file_option(metadata: Sequence[object]) -> bool:
    """Whether a field's metadata are those of a `File`."""
    return any(isinstance(one, AfterValidator) and one.func is _check_file for one in metadata)


def lower_case(value: object) -> object:
    """Text in lower case, for options whose words may be written either way."""
    return value.lower() if isinstance(value, str) else value


_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyz0123456789_-")
AeTitle = Annotated[str, AfterValidator(check_ae_title)]
Name = Annotated[str, AfterValidator(_check_name)]
Port = Annotated[int, Field(ge=0, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=7 * 86400)]
Folder = Annotated[Path, AfterValidator(_check_folder)]
File = Annotated[str, AfterValidator(_check_file)]
Host = Annotated[str, AfterValidator(_check_host)]
Uid = Annotated[str, AfterValidator(check_uid)]
Pattern = Annotated[str, AfterValidator(_check_pattern)]
Tag = Annotated[str, AfterValidator(_check_tag)]
Schedule = Annotated[str, AfterValidator(_check_schedule)]
Hours = Annotated[str, AfterValidator(_check_hours)]
Network = Annotated[str, AfterValidator(_check_network)]
Endpoint = Annotated[str, AfterValidator(_check_endpoint)]
CallerPattern = Annotated[str, Field(max_length=64), AfterValidator(_check_caller_pattern)]
Keep = Annotated[str, AfterValidator(_check_keep)]
VariablePrefix = Annotated[str, AfterValidator(_check_variable_prefix)]
JobsUrl = Annotated[SecretStr, AfterValidator(_check_jobs_url)]
Bucket = Annotated[str, AfterValidator(_check_bucket)]
KeyPrefix = Annotated[str, Field(max_length=200), AfterValidator(_check_key_prefix)]
ServiceUrl = Annotated[str, AfterValidator(_check_service_url)]
Region = Annotated[str, AfterValidator(_check_region)]
