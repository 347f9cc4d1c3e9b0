"""Imports go down only (DESIGN 9): each room knows what lies below it, never its siblings, and pure rooms stay pure.

The rules are the tables below; `violations` reads every module's imports with `ast`, nested and type-checking ones
included. The checker itself is tried on small trees with a planted fault each.
"""

import ast
import graphlib
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[2] / "relaypacs"

# From the bottom up. The rooms of one level don't know each other.
LEVELS = [
    {"model", "log", "failpoint"},
    {"errors"},
    {"dicom"},
    {"policy", "config"},
    {"spool", "staging", "jobs", "wake", "alive", "refusals"},
    {"upper", "stager"},
    {"receive", "intake", "forward", "sweep", "receipts", "sidecar", "trail"},
    {"node"},
    {"cli", "__main__"},
]
LEVEL = {room: number for number, rooms in enumerate(LEVELS) for room in rooms}
# Options are checked by the policies that use them, and policies take options: still without a cycle of modules.
FRIENDS = {("policy", "config"), ("config", "policy")}

STANDARD_LIBRARY_ONLY = {"model", "errors", "log", "failpoint"}
PURE = {"model", "errors", "dicom", "policy", "config"}
IMPURE = {
    "socket", "ssl", "select", "selectors", "socketserver", "http", "urllib.request", "asyncio", "subprocess",
    "threading", "multiprocessing", "concurrent", "queue", "signal", "time", "logging", "random", "secrets", "sqlite3",
    "prometheus_client", "relaypacs.log", "relaypacs.failpoint",
}  # fmt: skip
# Classes of errors are values: a policy may tell them apart.
ERROR_CLASSES = {"socket.gaierror", "ssl.SSLError", "ssl.SSLCertVerificationError"}
# Only `config` reads: the file it is told to, and the files that variables name.
NO_FILES = PURE - {"config"}
FILES = {"os", "pathlib", "shutil", "tempfile", "mmap", "fcntl"}

LIBRARIES = {
    "pynetdicom": ("upper/", "receive/", "forward/cstore.py", "dicom/contexts.py"),
    "pydicom": ("dicom/",),
    "boto3": ("staging/s3",),
    "botocore": ("staging/s3",),
    "sqlalchemy": ("jobs/",),
    "alembic": ("jobs/",),
    "psycopg": ("jobs/",),
    "re2": ("policy/pattern.py",),
    "redis": ("wake/",),
    "sentry_sdk": ("node/",),
    "typer": ("cli/",),
    "rich": ("cli/",),
    "starlette": ("sidecar/",),
    "uvicorn": ("sidecar/",),
}
MOST_LINES = 320


def violations(package: Path) -> list[str]:
    """What in `package` breaks the rules, one sentence each."""
    found: list[str] = []
    for path in sorted(package.rglob("*.py")):
        name = path.relative_to(package).as_posix()
        room = name.split("/")[0].removesuffix(".py")
        if name == "__init__.py":
            continue
        if room not in LEVEL:
            found.append(f"{name}: is in no room of the layers")
            continue
        text = path.read_text()
        if text.count("\n") > MOST_LINES:
            found.append(f"{name}: has {text.count(chr(10))} lines, more than {MOST_LINES}")
        found += [f"{name}: {fault}" for module in imports(text, name) for fault in faults(name, room, module)]
    return list(dict.fromkeys(found)) + cycles(package)


def cycles(package: Path) -> list[str]:
    """A cycle of modules that import each other while they are loaded, if there is one."""
    names = {}
    for path in package.rglob("*.py"):
        relative = path.relative_to(package).as_posix().removesuffix(".py").removesuffix("__init__").strip("/")
        names[".".join(["relaypacs", *filter(None, relative.split("/"))])] = path
    graph: dict[str, set[str]] = {}
    for name, path in names.items():
        graph[name] = set()
        for module in imports(path.read_text(), path.relative_to(package).as_posix(), nested=False):
            parts = module.split(".")
            loaded = {".".join(parts[: length + 1]) for length in range(len(parts))}
            # Loading a module loads its packages first; its own ones are being loaded anyway.
            graph[name] |= {one for one in loaded if one in names and not f"{name}.".startswith(f"{one}.")}
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        return [f"a cycle of imports: {' -> '.join(error.args[1])}"]
    return []


def imports(text: str, name: str, *, nested: bool = True) -> Iterator[str]:
    """Every module that the text imports, by its full name; `from a import b` counts as `a.b`.

    Without `nested` only what is imported when the module is loaded (not the like of `if TYPE_CHECKING`).
    """
    tree = ast.parse(text)
    for node in ast.walk(tree) if nested else tree.body:
        if isinstance(node, ast.Import):
            yield from (used for alias in node.names for used in uses(tree, alias))
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:  # relative: the folder that many levels up
                parents = ["relaypacs", *name.split("/")[:-1]]
                base = ".".join([*parents[: len(parents) - node.level + 1], *filter(None, [base])])
            yield from (f"{base}.{alias.name}" for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in {"__import__", "importlib.import_module"}:
            argument = node.args[0] if node.args else None
            yield str(argument.value) if isinstance(argument, ast.Constant) else "a computed name"


def uses(tree: ast.AST, alias: ast.alias) -> set[str]:
    """What `import socket` is used for, such as `socket.gaierror`; the module itself where that can't be seen."""
    name = alias.asname or alias.name
    used = {
        f"{alias.name}.{node.attr}"
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name
    }
    return used or {alias.name}


def faults(name: str, room: str, module: str) -> Iterator[str]:
    """What is wrong with `name`, of `room`, importing `module`."""
    top, *rest = module.split(".")
    if top == "relaypacs":
        other = rest[0] if rest else ""
        if other.startswith("__") and other != "__main__":
            return
        if other not in LEVEL:
            yield f"imports {module}, which is in no room"
        elif other != room and LEVEL[other] >= LEVEL[room] and (room, other) not in FRIENDS:
            yield f"imports {module}, which does not lie below"
    elif room in STANDARD_LIBRARY_ONLY and top not in sys.stdlib_module_names:
        yield f"imports {module}, and may only the standard library"
    places = LIBRARIES.get(top)
    if places and not name.startswith(places):
        yield f"imports {module}, which belongs to {' '.join(places)}"
    if room in PURE and module not in ERROR_CLASSES and any(f"{module}.".startswith(f"{one}.") for one in IMPURE):
        yield f"imports {module}, and is pure"
    if room in NO_FILES and top in FILES:
        yield f"imports {module}, and touches no file"
    if module == "a computed name":
        yield "imports a module by a computed name"


def test_relaypacs_keeps_its_layers():
    assert violations(PACKAGE) == []


def test_every_room_of_the_layers_is_looked_at():
    assert len(list(PACKAGE.rglob("*.py"))) > 40
    rooms = {path.name.removesuffix(".py") for path in PACKAGE.iterdir()} - {"__init__", "__pycache__", "py.typed"}
    assert rooms <= LEVEL.keys()


@pytest.fixture
def planted(tmp_path):
    def planted(name, text):
        path = tmp_path / "relaypacs" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return violations(tmp_path / "relaypacs")

    return planted


@pytest.mark.parametrize(
    ("name", "text"),
    [
        # upwards
        ("model.py", "from relaypacs.errors import RelayPacsError"),
        ("dicom/head.py", "from relaypacs.policy.routing import Router"),
        ("policy/routing.py", "if TYPE_CHECKING:\n    from relaypacs.jobs import store"),
        ("config/load.py", "from relaypacs.jobs.store import JobStore"),
        ("upper/association.py", "import relaypacs.receive.edge"),
        ("jobs/store.py", "from relaypacs.intake import Intake"),
        ("node/relay.py", "def f():\n    from relaypacs.cli import main"),
        ("model.py", "from relaypacs import log"),
        ("dicom/head.py", "from relaypacs.config.model import Rule"),
        # siblings
        ("receive/lane.py", "from relaypacs.forward.cstore import CStoreSender"),
        ("receive/lane.py", "from relaypacs import intake"),
        ("intake.py", "from relaypacs.sweep import Sweep"),
        ("intake/reading.py", "from relaypacs.sweep import Sweep"),
        ("sidecar/app.py", "from relaypacs import forward"),
        ("spool/writer.py", "from relaypacs.staging.keys import staged_key"),
        ("jobs/store.py", "from relaypacs.spool import reader"),
        ("wake/hints.py", "from ..jobs import store"),
        ("staging/s3.py", "from ..jobs.store import JobStore"),
        ("wake/hints.py", "from .. import spool"),
        ("spool/writer.py", "importlib.import_module('relaypacs.jobs')"),
        ("spool/writer.py", "__import__(name)"),
        # pure
        ("dicom/pdu.py", "import socket"),
        ("policy/retry.py", "from time import time"),
        ("config/load.py", "import threading"),
        ("config/load.py", "from relaypacs import log"),
        ("policy/retry.py", "from relaypacs.log import event"),
        ("policy/retry.py", "from relaypacs.failpoint import reach"),
        ("policy/retry.py", "import random"),
        ("dicom/part10.py", "from pathlib import Path"),
        ("config/load.py", "from urllib.request import urlopen"),
        ("dicom/pdu.py", "import logging.handlers"),
        ("policy/outcome.py", "import ssl"),
        ("policy/outcome.py", "import ssl\nssl.SSLError\nssl.create_default_context()"),
        ("policy/outcome.py", "import time as t\nt.time()"),
        ("policy/outcome.py", "from socket import socket"),
        ("model.py", "import pydantic"),
        # libraries
        ("intake.py", "import pynetdicom"),
        ("forward/stow.py", "from pynetdicom import AE"),
        ("dicom/pdu.py", "from pynetdicom.pdu import P_DATA_TF"),
        ("receive/lane.py", "def f():\n    import pydicom"),
        ("staging/filesystem.py", "import boto3"),
        ("intake.py", "from sqlalchemy import select"),
        ("cli/jobs.py", "import alembic.config"),
        ("node/relay.py", "import redis"),
        ("receive/edge.py", "import sentry_sdk"),
        # the house
        ("utils.py", ""),
        ("intake.py", "from relaypacs.utils import x"),
        ("spool/writer.py", "x = 1\n" * 321),
    ],
)  # fmt: skip
def test_a_planted_fault_is_found(planted, name, text):
    assert planted(name, text) != []


def test_a_cycle_of_modules_is_found(planted):
    assert planted("policy/admission.py", "from relaypacs.config.model import Caller") == []
    assert planted("config/options.py", "from relaypacs.policy.retry import parse_schedule") == []
    assert planted("policy/retry.py", "def f():\n    from relaypacs.config import options") == []
    assert planted("config/model.py", "from relaypacs.config.options import Name") == []
    found = planted("config/options.py", "from relaypacs.policy.admission import Admitted")
    assert len(found) == 1
    assert "relaypacs.policy.admission" in found[0]
    assert "relaypacs.config.options" in found[0]


def test_a_cycle_through_a_package_is_found(planted):
    assert planted("policy/retry.py", "from relaypacs.config.model import Rule") == []
    assert planted("config/model.py", "") == []
    assert planted("config/options.py", "from relaypacs.policy import retry") == []
    assert len(planted("config/__init__.py", "from relaypacs.config.options import Name")) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("__init__.py", "anything = 1"),
        ("cli/jobs.py", "from relaypacs.node.serve import serve\nfrom relaypacs.jobs.store import JobStore"),
        ("cli/say.py", "import typer\nfrom rich.table import Table"),
        ("config/load.py", "from pathlib import Path\nfrom urllib.parse import urlsplit"),
        ("config/options.py", "from relaypacs.policy import retry\nfrom relaypacs.dicom.uid import is_uid"),
        ("policy/admission.py", "from relaypacs.config.model import Caller"),
        ("policy/outcome.py", "from socket import gaierror\nimport ssl\nisinstance(error, ssl.SSLError)"),
        ("errors.py", "from relaypacs.model import Checkpoint"),
        ("policy/routing.py", "from relaypacs.dicom.tags import tag_of\nfrom relaypacs.model import Route\nimport re"),
        ("forward/cstore.py", "import pynetdicom, socket, time\nfrom relaypacs.upper import association"),
        ("forward/cstore.py", "from relaypacs.forward.sender import Sender\nfrom .source import ByteSource"),
        ("dicom/contexts.py", "from pynetdicom import sop_class\nimport pydicom"),
        ("staging/s3.py", "import boto3\nfrom botocore.exceptions import ClientError"),
        ("jobs/dialect.py", "import sqlalchemy as sa\nfrom relaypacs import log\nfrom relaypacs.config import Jobs"),
        ("node/serve.py", "import sentry_sdk\nfrom relaypacs import __version__"),
        ("wake/remote.py", "import redis\nimport importlib"),
        ("log.py", "import logging\nimport time"),
        ("spool/writer.py", "x = 1\n" * 320),
    ],
)  # fmt: skip
def test_what_is_allowed_is_not_found(planted, name, text):
    assert planted(name, text) == []
