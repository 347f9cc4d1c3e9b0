"""How a batch is shared out to STOW-RS requests."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from relaypacs.forward.stow import group_requests
from tests.unit.forward.deliveries import CT, EXPLICIT, Deliveries

_ONE = st.tuples(st.integers(0, 3), st.integers(0, 400), st.booleans())


@given(st.lists(_ONE, max_size=30), st.integers(1, 2000))
def test_every_claim_once_within_every_limit(batch: list[tuple[int, int, bool]], limit: int) -> None:
    deliveries = Deliveries()
    for number, size, tried in batch:
        deliveries.add(bytes(size), uid=f"1.2.{number}", sop_class=CT, transfer_syntax=EXPLICIT, attempts=int(tried))
    requests = group_requests(deliveries.claims, limit)
    together = [claim for request in requests for claim in request]
    assert sorted(claim.delivery_id for claim in together) == [claim.delivery_id for claim in deliveries.claims]
    for request in requests:
        uids = [claim.sop_instance_uid for claim in request]
        assert len(set(uids)) == len(uids) > 0
        assert len(request) == 1 or sum(claim.location.file_length for claim in request) <= limit
        assert len(request) == 1 or not any(claim.attempts for claim in request)
