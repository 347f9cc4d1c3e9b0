"""Addresses to listen on, as `[receive] also_listen` takes them."""

from __future__ import annotations

import pytest

from relaypacs.config.options import endpoint


@pytest.mark.parametrize(
    ("text", "means"),
    [
        ("10.0.0.1:104", ("10.0.0.1", 104)),
        ("localhost:0", ("localhost", 0)),
        ("[::]:11112", ("::", 11112)),
        ("[fe80::1%eth0]:104", ("fe80::1%eth0", 104)),
    ],
)
def test_host_and_port(text: str, means: tuple[str, int]) -> None:
    assert endpoint(text) == means


@pytest.mark.parametrize("text", ["", "104", ":104", "10.0.0.1", "::1:104", "[10.0.0.1]:104", "h:65536", "h:-1", "h:"])
def test_what_is_no_endpoint(text: str) -> None:
    with pytest.raises(ValueError, match="write HOST:PORT"):
        endpoint(text)
