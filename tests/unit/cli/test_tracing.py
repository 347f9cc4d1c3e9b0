"""`trace` for people: what each line says, and that a big study stays readable."""

from __future__ import annotations

from dataclasses import replace

from relaypacs.cli.say import when
from relaypacs.cli.tracing import trace_lines
from relaypacs.jobs.values import TraceDelivery, TraceRow
from relaypacs.model import Routed, State

NOW = 1_700_000_000.0

DELIVERY = TraceDelivery(
    delivery_id=1,
    destination="pacs",
    state=State.DELIVERED,
    priority=0,
    queued_at=NOW - 100,
    attempts=1,
    reason="",
    status=0,
    warning=False,
    next_attempt_at=None,
    settled_at=NOW - 99,
)
ROW = TraceRow(
    instance_id=1,
    sop_instance_uid="1.2.3.4",
    sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
    transfer_syntax_uid="1.2.840.10008.1.2.1",
    study_instance_uid="1.2",
    series_instance_uid="1.2.3",
    accession_number="A-77",
    patient_id="P1",
    study_date="20240501",
    modality="CT",
    received_at=NOW - 100,
    association_id="a1",
    calling_ae="CT_1",
    called_ae="RELAYPACS",
    peer="10.0.0.5:4242",
    verdict=Routed.ROUTED,
    rule="ct",
    conflict=False,
    problem="",
    node="node-1",
    in_spool=False,
    staged=True,
    deliveries=(DELIVERY,),
)


def lines_of(*rows: TraceRow) -> list[str]:
    return list(trace_lines(rows, NOW))


def test_one_instance_in_full() -> None:
    assert lines_of(ROW) == [
        "Study 1.2: CT, 1 instance, 20240501, accession number A-77, patient ID P1",
        f"  received 1 instance {when(NOW - 100)} from CT_1 (10.0.0.5:4242) as RELAYPACS; rule ct",
        "  instance 1.2.3.4; its bytes are staged on node-1; transfer syntax 1.2.840.10008.1.2.1",
        f"  pacs  delivered 1, the last {when(NOW - 99)}",
    ]


def test_why_a_copy_is_not_there_and_when_it_is_tried_again() -> None:
    late = replace(
        DELIVERY,
        state=State.DEFERRED,
        reason="archive refuses the connection; start it",
        attempts=3,
        next_attempt_at=NOW + 250,
        settled_at=None,
        destination="archive",
    )
    waits = replace(late, state=State.QUEUED, reason="", attempts=0, next_attempt_at=None, queued_at=NOW - 65)
    refused = replace(late, state=State.FAILED, reason="the destination refuses the SOP class (0122)", attempts=1)
    lines = lines_of(
        *(replace(ROW, instance_id=number, deliveries=(DELIVERY, late)) for number in range(300)),
        replace(ROW, instance_id=400, deliveries=(DELIVERY, waits)),
        replace(ROW, instance_id=401, deliveries=(DELIVERY, refused)),
    )
    assert len(lines) < 10
    assert "  archive  queued 1, deferred 300, failed 1" in lines
    assert "    300 deferred, 3 attempts, next try in 4 min 10 s: archive refuses the connection; start it" in lines
    assert "    1 queued, for 1 min 5 s" in lines
    assert "    1 failed, 1 attempt, next try in 4 min 10 s: the destination refuses the SOP class (0122)" not in lines
    assert "    1 failed, 1 attempt: the destination refuses the SOP class (0122)" in lines


def test_the_latest_delivery_of_an_instance_counts() -> None:
    again = replace(DELIVERY, delivery_id=2, state=State.QUEUED, settled_at=None, queued_at=NOW)
    lines = lines_of(replace(ROW, deliveries=(DELIVERY, again)))
    assert "  pacs  queued 1" in lines
    assert not any("delivered 1" in line for line in lines)


def test_that_a_copy_had_arrived_before_is_said() -> None:
    again = replace(DELIVERY, delivery_id=2, state=State.DISCARDED, reason="refuses the connection", queued_at=NOW)
    lines = lines_of(
        replace(ROW, deliveries=(DELIVERY, again)),
        replace(ROW, instance_id=2, deliveries=(again,)),
        replace(ROW, instance_id=3, deliveries=(DELIVERY, replace(DELIVERY, delivery_id=2, settled_at=NOW))),
    )
    assert "  pacs  delivered 1, discarded 2" in lines
    assert f"    1 delivered before, the last {when(NOW - 99)}" in lines


def test_a_warning_is_shown_with_what_it_was() -> None:
    warned = replace(DELIVERY, warning=True, reason="stored, but it coerced elements (B000)")
    assert "    1 delivered with a warning, 1 attempt: stored, but it coerced elements (B000)" in lines_of(
        replace(ROW, deliveries=(warned,))
    )


def test_what_no_rule_took_a_conflict_an_unreadable_head_and_gone_bytes_are_said() -> None:
    lines = "\n".join(
        lines_of(
            replace(ROW, verdict=Routed.UNROUTED, rule="", deliveries=(), problem="no Study Instance UID"),
            replace(ROW, instance_id=2, verdict=Routed.DROPPED, rule="no-sr", deliveries=(), conflict=True),
            replace(ROW, instance_id=3, rule="", staged=False),
        )
    )
    assert "no rule matched" in lines
    assert "rule no-sr says to drop it" in lines
    assert "no rule: the default route, or a person, sends it" in lines
    assert "1 instance received with other bytes under the same SOP Instance UID" in lines
    assert "1 instance whose head can't be read: no Study Instance UID" in lines
    assert "1 instance no longer kept on this node" in lines


def test_each_study_and_each_sender_has_its_lines_and_nothing_steers_the_terminal() -> None:
    lines = lines_of(
        ROW,
        replace(ROW, instance_id=2, association_id="a2", calling_ae="\x1b[2J", received_at=NOW - 50),
        replace(ROW, instance_id=3, study_instance_uid="", modality=""),
    )
    text = "\n".join(lines)
    assert text.count("Study ") == 2
    assert "Study (no UID): 1 instance" in text
    assert "\x1b" not in text
    assert "from \\x1b[2J (" in text
