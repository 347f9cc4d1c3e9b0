"""The configuration: typed, validated once, immutable. `cli` and `node` read it; every other room gets its part."""

from relaypacs.config.load import load_config
from relaypacs.config.model import (
    Caller,
    Config,
    Destination,
    Jobs,
    Log,
    Node,
    Receive,
    Routing,
    Rule,
    Sidecar,
    Spool,
    Staging,
)

__all__ = [
    "Caller",
    "Config",
    "Destination",
    "Jobs",
    "Log",
    "Node",
    "Receive",
    "Routing",
    "Rule",
    "Sidecar",
    "Spool",
    "Staging",
    "load_config",
]
