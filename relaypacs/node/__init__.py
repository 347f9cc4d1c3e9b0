"""The node: builds every room from the configuration, forks the processes that run them, keeps them running.

The only place that chooses adapters. Called by `cli`; nothing imports it from below.
"""

from relaypacs.node.serve import serve

__all__ = ["serve"]
