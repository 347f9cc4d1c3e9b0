"""A PostgreSQL for the tests of a file, which keeps what it committed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.contract.test_jobs.postgres import Postgres, debian_binaries


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    """A PostgreSQL with its defaults, fsync on."""
    binaries = debian_binaries()
    if binaries is None:
        pytest.skip("needs Debian's package postgresql")
    with Postgres(binaries) as server:
        yield server
