"""The metrics that are states rather than events: read when Prometheus asks, from disk and job table.

Events are counted where they happen (prometheus-client's multi-process mode); `registry_of` joins both. With the job
table down the rest is still served and `relaypacs_job_table_up` is 0. `docs/metrics.md` lists every one.
"""

from __future__ import annotations

import contextlib
import os
import platform
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path

from prometheus_client import CollectorRegistry
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from relaypacs import __version__, alive, log
from relaypacs.config import Config
from relaypacs.config.certificates import shown_certificates
from relaypacs.config.secrets import secret_files
from relaypacs.jobs.states import OWED_STATES, PENDING_STATES
from relaypacs.sidecar.app import Readiness
from relaypacs.sidecar.backlog import Backlog
from relaypacs.sidecar.checks import ANSWER_SECONDS, checks_of, free_bytes, process_names, spool_files
from relaypacs.sidecar.departed import counting, fold
from relaypacs.sidecar.expiries import Expiries
from relaypacs.sidecar.jobtable import JobTable
from relaypacs.sidecar.trends import Trends

_DELIVERIES, _MADE = "relaypacs_deliveries", ("delivered", "warning")
_NOT_AFTER = "relaypacs_tls_certificate_not_after_timestamp_seconds"
STATES: dict[str, tuple[str, tuple[str, ...]]] = {
    "relaypacs_build_info": ("Always 1; the labels say what runs.", ("version", "python")),
    "relaypacs_ready": ("1 while the node is ready as `/readyz` says, else 0.", ()),
    "relaypacs_check_ok": ("1 while a check of `/readyz` is good, else 0.", ("check",)),
    "relaypacs_process_serving": ("1 while a process serves, else 0.", ("process",)),
    "relaypacs_process_cpu_seconds_total": ("Processor time used since the process started, in seconds.", ("process",)),
    "relaypacs_process_resident_bytes": ("Memory in use, in bytes, with what processes share.", ("process",)),
    "relaypacs_process_open_files": ("Open file descriptors.", ("process",)),
    "relaypacs_process_threads": ("Running threads.", ("process",)),
    "relaypacs_process_disk_bytes_total": (
        "Bytes read from and written to disks since the process started.",
        ("process", "direction"),
    ),
    "relaypacs_secret_age_seconds": (
        "Time since the file of a secret changed, in seconds; for those given as a file.",
        ("secret",),
    ),
    "relaypacs_spool_bytes": ("Size of the spool's segments that hold something, in bytes.", ()),
    "relaypacs_spool_oldest_segment_seconds": ("Age of the oldest segment in use, in seconds; 0 without any.", ()),
    "relaypacs_spool_min_free_bytes": ("Free space below which objects are refused, in bytes.", ()),
    "relaypacs_intake_backlog_bytes": ("Bytes in the spool that are not in the job table yet.", ()),
    "relaypacs_intake_lag_seconds": (
        "How long the oldest object has waited for its rows in the job table, in seconds; 0 if none waits.",
        (),
    ),
    "cert_expiry_seconds": ("Time until the certificate in use expires, in seconds; negative afterwards.", ("use",)),
    "active_users": ("Calling AE titles that have an association open.", ()),
    "relaypacs_spool_free_bytes": ("Free space of the spool's file system, in bytes.", ()),
    "relaypacs_spool_hours_until_full": ("Hours until objects are refused, if the spool's free space shrinks on.", ()),
    "relaypacs_spool_segments": ("Segment files, by what they are.", ("place",)),
    "relaypacs_staging_free_bytes": ("Free space of the staging folder's file system, in bytes.", ()),
    "relaypacs_object_storage_up": ("1 while staging in object storage works, else 0.", ()),
    "relaypacs_job_table_up": ("1 if the job table answered this scrape, else 0.", ()),
    "relaypacs_queue_deliveries": (
        "Deliveries that are not over well, by destination and state.",
        ("destination", "state"),
    ),
    "relaypacs_queue_oldest_seconds": (
        "Age of the oldest delivery that waits, in seconds; 0 if none.",
        ("destination",),
    ),
    "relaypacs_queue_drain_seconds": (
        "Estimated time until what waits for the destination is delivered, in seconds.",
        ("destination",),
    ),
    "relaypacs_instances_marked": ("Instances that want a person's eye, by why.", ("mark",)),
    "relaypacs_ledger": ("The ledger's counts of instances and deliveries, in total.", ("entry",)),
    "relaypacs_ledger_imbalance": ("By how much the ledger's equations fail; anything but 0 is an alarm.", ()),
}
"""Name, help text and labels of everything that is computed when scraped: gauges, and `_total` counters."""


def registry_of(
    config: Config,
    jobs: JobTable,
    metrics_dir: Path,
    callers_open: Callable[[], int] | None = None,
    own_expiry: Callable[[], float] | None = None,
) -> CollectorRegistry:
    """What `/metrics` exposes: every process' events under `metrics_dir`, and this node's states.

    `callers_open`: how many calling AE titles have an association open; None where that can't be known.
    `own_expiry`: seconds until the sidecar's own certificate expires; None without one."""
    registry = CollectorRegistry()
    trends = Trends()
    expiries = Expiries(shown_certificates(config), own_expiry)
    registry.register(NodeEvents(metrics_dir, expiries, trends))  # before the states, which ask for what it saw
    registry.register(NodeStates(config, jobs, callers_open, trends))
    return registry


class NodeEvents(Collector):
    """What the node's processes have counted, summed from the files prometheus-client keeps for each.

    Counts of a process that died stay; what it had open does not: its `live` gauges are left out.
    """

    def __init__(
        self, metrics_dir: Path, expiries: Callable[[], dict[str, float]] = dict, trends: Trends | None = None
    ) -> None:
        """`expiries()`: seconds until certificates expire that no process tells of, by use."""
        self._folder, self._expiries, self._trends = metrics_dir, expiries, trends or Trends()
        self._lock = threading.Lock()

    def describe(self) -> list[Metric]:
        """Nothing, as `NodeStates.describe`."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The sums, now."""
        left: dict[tuple[str, ...], float] = {(use,): seconds for use, seconds in self._expiries().items()}
        with self._lock:
            fold(self._folder)
            merged = MultiProcessCollector.merge([str(file) for file in counting(self._folder)])  # type: ignore[no-untyped-call]
        for metric in merged:
            yield metric
            if metric.name == _NOT_AFTER:
                left |= {(one.labels["use"],): one.value - time.time() for one in metric.samples}
            elif metric.name == _DELIVERIES:
                totals: Counter[str] = Counter()
                for one in metric.samples:
                    if one.labels["outcome"] in _MADE:
                        totals[one.labels["destination"]] += int(one.value)
                self._trends.delivered(time.monotonic(), totals)
        if left:
            yield _gauge("cert_expiry_seconds", left)


class NodeStates(Collector):
    """Computes the gauges of `STATES`; one that can't be had is left out."""

    def __init__(
        self,
        config: Config,
        jobs: JobTable,
        callers_open: Callable[[], int] | None = None,
        trends: Trends | None = None,
    ) -> None:
        self._config = config
        self._trends = trends or Trends()
        self._callers_open = callers_open
        self._readiness = Readiness(checks_of(config, jobs))
        self._jobs = jobs
        self._was_up = True

    def describe(self) -> list[Metric]:
        """Nothing: registering must not read disk or database."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The gauges, now; job table counts may be some seconds old."""
        yield _gauge("relaypacs_build_info", {(__version__, platform.python_version()): 1})
        ready, checks = self._readiness.look()
        yield _gauge("relaypacs_ready", {(): ready})
        yield _gauge("relaypacs_check_ok", {(name,): check.ok for name, check in checks.items()})
        run_dir = self._config.run_dir
        places = {run_dir / "alive" / name: name for name in process_names(self._config)}
        answers = alive.ask(places, wait_seconds=ANSWER_SECONDS)
        yield _gauge("relaypacs_process_serving", {(places[path],): used is not None for path, used in answers.items()})
        # Intake is a thread of the relay process.
        processes = {places[path]: used for path, used in answers.items() if used and places[path] != "intake"}
        yield from _usage(processes | {"sidecar": alive.usage()})
        if self._callers_open is not None:
            yield _gauge("active_users", {(): self._callers_open()})
        yield from self._disk()
        yield from self._secrets()
        yield from self._job_table()

    def _disk(self) -> Iterator[Metric]:
        spool = self._config.spool_dir
        folders = {"relaypacs_spool_free_bytes": spool}
        if self._config.staging.kind == "filesystem":
            folders["relaypacs_staging_free_bytes"] = self._config.staging_dir
        else:
            up = not self._config.staging_trouble_file.exists()
            yield _gauge("relaypacs_object_storage_up", {(): up})
        yield _gauge("relaypacs_spool_min_free_bytes", {(): self._config.spool.min_free_bytes})
        for name, folder in folders.items():
            try:
                yield _gauge(name, {(): free_bytes(folder)})
            except OSError:
                continue  # `/readyz` says why
        full: dict[tuple[str, ...], float] = {}
        with contextlib.suppress(OSError):
            mark = self._config.spool.min_free_bytes
            if (hours := self._trends.hours_until_full(time.monotonic(), free_bytes(spool), mark)) is not None:
                full[()] = hours
        yield _gauge("relaypacs_spool_hours_until_full", full)
        yield _gauge("relaypacs_spool_segments", {(place,): number for place, number in spool_files(spool).items()})

    def _secrets(self) -> Iterator[Metric]:
        ages: dict[tuple[str, ...], float] = {}
        for name, file in secret_files(self._config, os.environ).items():
            with contextlib.suppress(OSError):
                ages[(name,)] = max(0.0, time.time() - file.stat().st_mtime)
        yield _gauge("relaypacs_secret_age_seconds", ages)

    def _job_table(self) -> Iterator[Metric]:
        try:
            reading = self._jobs.reading()
        except Exception as error:
            self._tell(False, type(error).__name__)
            yield _gauge("relaypacs_job_table_up", {(): 0})
            yield from _spool(self._jobs.spool())
            return
        self._tell(True)
        yield _gauge("relaypacs_job_table_up", {(): 1})
        yield from _spool(reading.spool)
        yield _gauge("relaypacs_instances_marked", {(mark.value,): count for mark, count in reading.marked.items()})
        configured = {destination.name for destination in self._config.destination}
        counts: dict[tuple[str, ...], float] = {(name, state.value): 0 for name in configured for state in OWED_STATES}
        oldest: dict[tuple[str, ...], float] = {(name,): 0 for name in configured}
        for row in reading.queue:
            counts |= {(row.destination, state.value): row.counts.get(state, 0) for state in OWED_STATES}
            oldest[(row.destination,)] = row.oldest_seconds or 0.0
        yield _gauge("relaypacs_queue_deliveries", counts)
        yield _gauge("relaypacs_queue_oldest_seconds", oldest)
        waiting = {name: sum(counts[name, state.value] for state in PENDING_STATES) for (name,) in oldest}
        left = {(name,): self._trends.drain_seconds(name, count) for name, count in waiting.items()}
        yield _gauge(
            "relaypacs_queue_drain_seconds", {name: value for name, value in left.items() if value is not None}
        )
        entries = asdict(reading.ledger)
        yield _gauge("relaypacs_ledger_imbalance", {(): entries.pop("imbalance")})
        yield _gauge("relaypacs_ledger", {(entry,): count for entry, count in entries.items()})

    def _tell(self, up: bool, error: str = "") -> None:
        """One line per change, not per scrape."""
        if up != self._was_up:
            self._was_up = up
            level, said = (
                (log.INFO, "The job table answers again.") if up else (log.WARNING, "The job table is silent.")
            )
            log.event(level, "job-table-seen", said, error=error)


def _usage(processes: Mapping[str, alive.Usage]) -> Iterator[Metric]:
    for name, value in (
        ("relaypacs_process_cpu_seconds_total", "cpu_seconds"),
        ("relaypacs_process_resident_bytes", "resident_bytes"),
        ("relaypacs_process_open_files", "open_files"),
        ("relaypacs_process_threads", "threads"),
    ):
        yield _gauge(name, {(process,): getattr(used, value) for process, used in processes.items()})
    moved: dict[tuple[str, ...], float] = {}
    for process, used in processes.items():
        moved |= {(process, "read"): used.disk_read_bytes, (process, "written"): used.disk_written_bytes}
    yield _gauge("relaypacs_process_disk_bytes_total", moved)


def _spool(found: Backlog) -> Iterator[Metric]:
    yield _gauge("relaypacs_spool_bytes", {(): found.in_use_bytes})
    yield _gauge("relaypacs_spool_oldest_segment_seconds", {(): found.oldest_segment_seconds})
    yield _gauge("relaypacs_intake_backlog_bytes", {(): found.unread_bytes})
    yield _gauge("relaypacs_intake_lag_seconds", {(): found.unread_seconds})


def _gauge(name: str, values: Mapping[tuple[str, ...], float]) -> Metric:
    help_text, labels = STATES[name]
    family: GaugeMetricFamily | CounterMetricFamily
    if name.endswith("_total"):
        family = CounterMetricFamily(name, help_text, labels=labels)
    else:
        family = GaugeMetricFamily(name, help_text, labels=labels)
    for key, value in sorted(values.items()):
        family.add_metric(key, value)
    return family
