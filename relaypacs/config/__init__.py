"""The configuration: typed, validated once, immutable. `cli` and `node` read it; every other room gets its part."""

from relaypacs.config.cross import warnings
from relaypacs.config.load import load_config
from relaypacs.config.model import (
    Caller,
    Config,
    Destination,
    Jobs,
    Log,
    Node,
    Receive,
    Redis,
    Routing,
    Rule,
    Sidecar,
    Spool,
    Staging,
)
from relaypacs.config.secrets import Credentials, credentials

__all__ = [
    "Caller",
    "Config",
    "Credentials",
    "Destination",
    "Jobs",
    "Log",
    "Node",
    "Receive",
    "Redis",
    "Routing",
    "Rule",
    "Sidecar",
    "Spool",
    "Staging",
    "credentials",
    "load_config",
    "warnings",
]
