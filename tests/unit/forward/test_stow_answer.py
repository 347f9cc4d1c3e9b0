"""A STOW-RS answer says what it says and nothing more, whatever a peer writes."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from relaypacs.forward.stow_answer import Listing, clean_uid, limit_bytes, read_listing
from tests.unit.forward.webpeer import module


def test_sequences_are_read() -> None:
    body = module(["1.2.3", "1.2.4"], {"1.2.5": 0xA700, "1.2.6": None}, others=2)
    assert read_listing(body) == Listing({"1.2.3": 0, "1.2.4": 0}, {"1.2.5": 0xA700, "1.2.6": None}, 2)


def test_peers_spell_it_in_their_own_ways() -> None:
    body = json.dumps(
        [
            {
                "00081199": {"vr": "SQ", "Value": [{"00081155": {"vr": "UI", "Value": ["1.2.3\0"]}, "00081196": {}}]},
                "0008119a": {"vr": "SQ", "Value": [{}]},
                "00081198": {
                    "vr": "SQ",
                    "Value": [{"00081155": {"Value": [" 1.2.4 "]}, "00081197": {"vr": "US", "Value": ["43264"]}}],
                },
            }
        ]
    ).encode()
    assert read_listing(body) == Listing({"1.2.3": 0}, {"1.2.4": 43264}, 1)


def test_a_warning_reason_comes_along() -> None:
    item = {"00081155": {"vr": "UI", "Value": ["1.2.3"]}, "00081196": {"vr": "US", "Value": [0xB007]}}
    assert read_listing(json.dumps({"00081199": {"vr": "SQ", "Value": [item]}}).encode()) == Listing({"1.2.3": 0xB007})


def test_stored_and_failed_is_failed() -> None:
    assert read_listing(module(["1.2.3"], {"1.2.3": 0x0110})) == Listing({}, {"1.2.3": 0x0110})


def test_the_empty_module_is_a_module() -> None:
    """Orthanc's answer on a full disk; any other JSON is none."""
    assert read_listing(module()) == Listing()
    assert read_listing(b'{"00081190": {"vr": "UR"}}') == Listing()
    for body in (b"{}", b"[]", b"[{}]", b"1", b'"00081199"', b'{"Message": {"vr": "x"}}', b"", b"\0", b"\xff"):
        assert read_listing(body) is None


def test_depth_is_no_danger() -> None:
    assert read_listing(b"[" * 500_000) is None
    assert read_listing(b'{"a":' * 200_000 + b"1" + b"}" * 200_000) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["00081198", "00081199", "0008119A", "00081155", "00081197", "Value", "vr"]),
            inner,
            max_size=4,
        )
    ),
    max_leaves=20,
)


@given(JSON)
def test_any_json_is_read_without_harm(found: object) -> None:
    listing = read_listing(json.dumps(found).encode())
    if listing is not None:
        assert all(isinstance(uid, str) for uid in (*listing.stored, *listing.failed))
        assert all(reason is None or 0 <= reason <= 0xFFFF for reason in listing.failed.values())
        assert not listing.stored.keys() & listing.failed.keys()


@given(st.binary(max_size=200))
def test_any_bytes_are_read_without_harm(body: bytes) -> None:
    read_listing(body)


def test_bounds() -> None:
    assert limit_bytes(1) < limit_bytes(1000) < 16 << 20
    assert clean_uid("1.2.3\0") == clean_uid("1.2.3 ") == "1.2.3"
