"""Decisions as pure functions: admission, routing, retry, outcomes. No sockets, no clock, no database."""
