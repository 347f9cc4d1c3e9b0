"""What works as configured but hardly as meant."""

from __future__ import annotations

import pytest

from relaypacs.config.cross import warnings
from relaypacs.config.model import Config, Receive


@pytest.mark.parametrize(
    ("networks", "told"),
    [(("0.0.0.0/0",), True), (("10.0.0.0/8", "::/0"), True), (("10.0.0.0/28",), False), ((), False)],
)
def test_a_balancer_that_may_be_anyone(networks: tuple[str, ...], told: bool) -> None:
    found = warnings(Config(receive=Receive(proxy_from=networks)), {})
    assert any("proxy_from" in one for one in found) == told
