"""What works as configured but hardly as meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from relaypacs.config.cross import warnings
from relaypacs.config.model import Audit, Caller, Config, Destination, Receive, Rule


@pytest.mark.parametrize(
    ("networks", "told"),
    [(("0.0.0.0/0",), True), (("10.0.0.0/8", "::/0"), True), (("10.0.0.0/28",), False), ((), False)],
)
def test_a_balancer_that_may_be_anyone(networks: tuple[str, ...], told: bool) -> None:
    found = warnings(Config(receive=Receive(proxy_from=networks)), {})
    assert any("proxy_from" in one for one in found) == told


ANY, CT = Caller(ae_title="*"), Caller(ae_title="CT_1")
HERE = Caller(ae_title="CT_1", networks=("10.1.0.0/16",))


@pytest.mark.parametrize(
    ("callers", "shadowed"),
    [
        ((CT, HERE), True),
        ((HERE, CT), False),
        ((HERE, Caller(ae_title="CT_1", networks=("10.1.2.0/24",))), True),
        ((HERE, Caller(ae_title="CT_1", networks=("10.1.2.0/24", "10.2.0.0/24"))), False),
        ((HERE, Caller(ae_title="CT_1", networks=("fd00::/8",))), False),
        ((ANY, CT), False),  # exact before pattern
        ((ANY, Caller(ae_title="CT*")), True),
        ((Caller(ae_title="CT*"), Caller(ae_title="CT_?")), True),
        ((Caller(ae_title="CT?"), Caller(ae_title="CT*")), False),
        ((Caller(ae_title="[C]*"), Caller(ae_title="C*")), False),
        ((Caller(ae_title="ct_1"), CT), False),
        ((CT, Caller(ae_title="CT_1", credentials_env="X")), False),
        ((CT, Caller(ae_title="CT_1", certificate=("CN=a",))), True),
        ((Caller(ae_title="CT_1", certificate=("CN=a",)), CT), False),
        ((Caller(ae_title="CT_1", called_ae=("A", "B")), Caller(ae_title="CT_1", called_ae=("B",))), True),
        ((Caller(ae_title="CT_1", called_ae=("A",)), CT), False),
    ],
)
def test_a_caller_in_another_s_shadow(callers: tuple[Caller, ...], shadowed: bool) -> None:
    found = [one for one in warnings(Config(caller=callers), {}) if "has no effect, for caller[1]" in one]
    assert len(found) == shadowed
    assert all(one.startswith("caller[2] ") for one in found)


def test_case_counts_in_shadows_as_it_does_at_the_door() -> None:
    callers = (Caller(ae_title="ct_1"), CT)
    found = warnings(Config(caller=callers, receive=Receive(ae_titles_case_sensitive=False)), {})
    assert any("has no effect" in one for one in found)


def test_a_caller_that_may_call_none_of_our_titles() -> None:
    callers = (CT, Caller(ae_title="MR", called_ae=("relay", "X")), Caller(ae_title="US", called_ae=("RELAY", "X")))
    for sensitive, expected in ((True, ['caller[2] "MR"']), (False, [])):
        receive = Receive(ae_titles=("RELAY",), ae_titles_case_sensitive=sensitive)
        found = [one for one in warnings(Config(caller=callers, receive=receive), {}) if "none of its called_ae" in one]
        assert [one.split(":")[0] for one in found] == expected


def test_one_pacs_under_two_names() -> None:
    one = Destination(name="one", kind="dimse", host="pacs.example", called_ae="PACS")
    web = Destination(name="web", kind="dicomweb", url="https://pacs.example/rs")
    others = (
        one.model_copy(update={"name": "two", "host": "PACS.example"}),
        one.model_copy(update={"name": "three", "called_ae": "OTHER"}),
        web,
        web.model_copy(update={"name": "rs", "url": "https://pacs.example/rs/"}),
    )
    found = [text for text in warnings(Config(destination=(one, *others)), {}) if "sent there twice" in text]
    assert [text.split(":")[0] for text in found] == ['destination[2] "two"', 'destination[5] "rs"']


@pytest.mark.parametrize(
    ("host", "port", "called", "told"),
    [
        ("127.0.0.1", 11112, "RELAY", "comes back for ever"),
        ("localhost", 11112, "relay", "nobody is called relay"),
        ("10.0.0.5", 11112, "OTHER", "nobody is called OTHER"),
        ("10.0.0.5", 2762, "RELAY", "comes back for ever"),
        ("::1", 105, "RELAY", "comes back for ever"),
        ("127.0.0.1", 104, "RELAY", ""),
        ("10.0.0.6", 11112, "RELAY", ""),
    ],
)
def test_a_destination_that_is_this_node(host: str, port: int, called: str, told: str) -> None:
    config = Config.model_validate(
        {
            "receive": {"host": "10.0.0.5", "also_listen": ["[::1]:105"], "ae_titles": ["RELAY"]},
            "tls": {"listen": ["10.0.0.5:2762"], "certificate": "/a", "key": "/b"},
            "destination": [{"name": "d", "kind": "dimse", "host": host, "port": port, "called_ae": called}],
        }
    )
    found = [one for one in warnings(config, {}) if one.startswith("destination[1]") and "this node" in one]
    assert [told in one for one in found] == ([True] if told else [])


@pytest.mark.parametrize(
    ("sensitive", "check", "told"),
    [(True, True, "nobody is called"), (False, True, "for ever"), (True, False, "for ever")],
)
def test_it_is_this_node_as_reception_takes_ae_titles(sensitive: bool, check: bool, told: str) -> None:
    receive = Receive(ae_titles=("RELAY",), ae_titles_case_sensitive=sensitive, check_called_ae=check)
    itself = Destination(name="d", kind="dimse", host="127.0.0.1", port=receive.port, called_ae="relay")
    (found,) = [one for one in warnings(Config(receive=receive, destination=(itself,)), {}) if "this node" in one]
    assert told in found


def test_a_modality_that_the_standard_does_not_define() -> None:
    given = ("CTT", "ct", "re:CTT", "CT*", "[CM][TR]", "LASER", "")
    rules = tuple(Rule(name=f"r{number}", modality=one, calling_ae="A", to=("x",)) for number, one in enumerate(given))
    found = [one for one in warnings(Config(rule=rules), {}) if "is none that PS3.3 defines" in one]
    assert found == [
        "rule[1] \"r0\" modality: 'CTT' is none that PS3.3 defines; did you mean CT?",
        "rule[6] \"r5\" modality: 'LASER' is none that PS3.3 defines",
    ]


def test_expressions_that_may_take_for_ever() -> None:
    rule = Rule(name="a", to=("x",), calling_ae="re:(?!CT_).*", modality="re:(A+)+B", tags={"StationName": r"re:(.)\1"})
    caller = Caller(ae_title="*", certificate=("re:CN=(?=a).*",), sop_classes=("CT *",))
    sentry = Config(rule=(rule,), caller=(caller,), audit=Audit(site="re:("))
    found = [one for one in warnings(sentry, {}) if "may take for ever" in one]
    assert [one.partition(":")[0] for one in found] == [
        'caller[1] "*" certificate', 'rule[1] "a" calling_ae', 'rule[1] "a" tags',
    ]  # fmt: skip


def test_files_that_are_not_there(tmp_path: Path) -> None:
    here = tmp_path / "here.pem"
    here.touch()
    pacs = {"name": "pacs", "kind": "dimse", "host": "h", "called_ae": "P", "tls": True}
    config = Config.model_validate(
        {
            "log": {"file": str(tmp_path / "log")},
            "tls": {"listen": ["h:2762"], "certificate": str(tmp_path / "absent.pem"), "key": str(here)},
            "destination": [{**pacs, "tls_ca": str(tmp_path / "ca.pem")}],
        }
    )
    found = [one for one in warnings(config, {}) if "is not there" in one]
    assert [one.partition(":")[0] for one in found] == ["[tls] certificate", 'destination[1] "pacs" tls_ca']
