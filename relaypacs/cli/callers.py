"""`relaypacs caller list` and `caller add`: who may send here, and the entry for somebody who was refused.

`add` appends to the configuration file and leaves what stands there as it is. What it writes is loaded before it takes
the file's place, in one step, and the file as it was is kept beside it. A node reads its configuration when it starts.
"""

from __future__ import annotations

import ipaddress
import itertools
import json
import os
import shutil
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

from relaypacs.cli import say
from relaypacs.cli.associations import host_of, sentence
from relaypacs.config import Config, load_config
from relaypacs.config.model import Caller
from relaypacs.errors import ConfigError
from relaypacs.jobs.associations import Asked, AssociationRow
from relaypacs.jobs.store import JobStore
from relaypacs.policy.admission import UNKNOWN_CALLER, WRONG_ADDRESS, find_caller
from relaypacs.policy.aetitle import check_ae_title


def show(config: Config, *, as_json: bool) -> int:
    """Everyone who may send, in the order of the file."""
    if as_json:
        say.out_json([caller.model_dump(mode="json") for caller in config.caller])
    elif not config.caller:
        say.tell("No [[caller]] is configured: nobody may send.")
    else:
        columns = ["calling AE title", "from", "to", "may", "SOP classes", "user identity"]
        say.out_table(columns, [_row(caller) for caller in config.caller])
    return 0


def _row(caller: Caller) -> list[str]:
    rights = [name for name, given in (("echo", caller.echo), ("store", caller.store)) if given]
    return [
        caller.ae_title,
        ", ".join(caller.networks) or "anywhere",
        ", ".join(caller.called_ae) or "any of ours",
        " and ".join(rights) or "nothing",
        ", ".join(caller.sop_classes) or "all",
        caller.credentials_env or "none",
    ]


def add(
    store: JobStore,
    config: Config,
    path: Path,
    *,
    association_id: str,
    network: str | None,
    dry_run: bool,
    environ: Mapping[str, str],
) -> int:
    """Write the entry that admits whoever was refused under this id. ConfigError with the reason if there is none."""
    rows = store.associations.find(Asked(association_id=association_id, refused=True), limit=2)
    if not rows:
        say.tell("No refusal has this id; `relaypacs associations --rejected` lists them.")
        return 1
    if len(rows) > 1:
        raise ConfigError([f"more than one refusal begins with {say.printable(association_id)!r}; give more of the id"])
    text = entry(rows[0], config, network)
    if dry_run:
        say.out(text)
        return 0
    kept = write(path, text, environ, config)
    say.out(text)
    say.tell(f"Written to {path}; it was kept as {kept}. Restart the node: it reads its configuration when it starts.")
    return 0


def entry(row: AssociationRow, config: Config, network: str | None) -> str:
    """The `[[caller]]` for a refused peer, as TOML. ConfigError where another one is not the mend."""
    if row.reason not in (UNKNOWN_CALLER, WRONG_ADDRESS):
        raise ConfigError([f"another [[caller]] would not help: {say.printable(sentence(row, config) or row.reason)}"])
    title = row.calling_ae
    try:
        check_ae_title(title)
    except ValueError as problem:
        raise ConfigError([f"{say.printable(title)!r} can't be admitted: {problem}"]) from None
    if set(title) & set("*?"):
        raise ConfigError([f"{title!r} holds `*` or `?`, which would admit others too: write its [[caller]] by hand"])
    try:
        address = str(ipaddress.ip_network(network or host_of(row.peer).partition("%")[0], strict=False))
    except ValueError:
        raise ConfigError(["write --network as a CIDR network such as 10.20.0.0/16, or an address"]) from None
    sensitive = config.receive.ae_titles_case_sensitive
    if find_caller(config.caller, title, case_sensitive=sensitive, peer_host=address.partition("/")[0]) is not None:
        raise ConfigError([f"a [[caller]] admits {title} from {address} already; restart the node if it is new"])
    known = find_caller(config.caller, title, case_sensitive=sensitive)
    rights = known.model_dump(mode="json", exclude_defaults=True) if known is not None else {}
    options = {"ae_title": title, "networks": [address]} | {
        name: value for name, value in rights.items() if name not in ("ae_title", "networks")
    }
    lines = [f"# Added by `relaypacs caller add` for the refusal {row.association_id}.", "[[caller]]"]
    # JSON writes text, numbers, truth and lists of them as TOML does; AE titles hold nothing else.
    return "\n".join([*lines, *(f"{name} = {json.dumps(value)}" for name, value in options.items())])


def write(path: Path, text: str, environ: Mapping[str, str], as_it_is: Config) -> Path:
    """Append `text` to the file at `path`, which loads `as_it_is`; returns where the file as it was is kept.

    ConfigError if the whole would not load, or not as the same with one more caller; OSError. Then nothing has changed.
    """
    path = path.resolve()  # a link stays one
    before = path.read_bytes()
    joint = b"" if before.endswith(b"\n") or not before else b"\n"
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".toml", dir=path.parent)
    draft = Path(name)
    try:
        with os.fdopen(fd, "wb") as file:
            file.write(before + joint + b"\n" + text.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            loaded = load_config(draft, environ)
        except ConfigError as wrong:
            problems = [problem.replace(str(draft), str(path)) for problem in wrong.problems]
            raise ConfigError([f"with this entry it would not load: {one}" for one in problems]) from None
        added = loaded.caller[len(as_it_is.caller) :]
        if len(added) != 1 or loaded != as_it_is.model_copy(update={"caller": as_it_is.caller + added}):
            raise ConfigError([f"an entry can't be appended to {path}: write it by hand:\n{text}"])
        shutil.copymode(path, draft)
        status = path.stat()
        with suppress(PermissionError):  # not root: it is ours anyway
            os.chown(draft, status.st_uid, status.st_gid)
        if path.read_bytes() != before:
            raise ConfigError([f"{path} was changed meanwhile; nothing was written, run the command again"])
        kept = _backup(path)
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)
    _sync_folder(path.parent)
    return kept


def _backup(path: Path) -> Path:
    """Copy the file beside itself under a name that is free."""
    when = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
    for number in itertools.count():
        kept = path.with_name(f"{path.name}.{when}{f'-{number}' if number else ''}.bak")
        with suppress(FileExistsError):
            kept.touch(mode=0o600, exist_ok=False)
            shutil.copy2(path, kept)
            return kept
    raise AssertionError


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
