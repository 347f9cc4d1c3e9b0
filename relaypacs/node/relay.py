"""The relay process: intake, sweep and forward workers as threads around one job table and one reader of the spool."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from relaypacs import log
from relaypacs.config import Config
from relaypacs.errors import JobsError
from relaypacs.forward.dispatch import Forwarder
from relaypacs.forward.source import ByteSource
from relaypacs.intake import GATHER_MOST_SECONDS, Intake
from relaypacs.jobs.store import JobStore
from relaypacs.jobs.values import Joined
from relaypacs.node.arrivals import Arrivals
from relaypacs.node.auditing import Auditing
from relaypacs.node.changes import Changes
from relaypacs.node.identity import identity
from relaypacs.node.orders import Prepare
from relaypacs.node.recovery import Recovery
from relaypacs.node.sharing import keeper_of, wake_of, windows_of
from relaypacs.node.stores import StagingWatch, desk_of, is_shared, staging_of, wants_receipts
from relaypacs.node.supervisor import Stop
from relaypacs.spool.reader import SpoolReader
from relaypacs.sweep import Sweep
from relaypacs.wake.hints import HintReceiver, poke

_RETRY_SECONDS = 2.0
_FORWARD_STOP_SECONDS = 10.0
_INTAKE_STOP_SECONDS = 2.0


def run_relay(
    config: Config,
    hash_key: bytes,
    alive: Callable[[str], int],
    stop: Stop,
    follow: Callable[[Prepare], None] = lambda _: None,
) -> int:
    """Run until `stop`. `alive(name)` marks this process (and, once the spool is read, intake) as serving.

    `follow` is given what prepares another configuration while it runs (`orders`).
    """
    alive("relay")
    opened = _open_jobs(config, stop)
    if opened is None:
        return 0
    jobs, joined = opened
    reader = SpoolReader(config.spool_dir, recycle=config.spool.recycle, recycle_segments=config.spool.recycle_segments)
    staging = staging_of(config, puts=True)
    hints = HintReceiver(config.hint_socket)
    keeper = keeper_of(config, "relay")
    wake = wake_of(keeper)
    rows_changed = threading.Event()

    def rows_committed() -> None:
        rows_changed.set()
        if desk is not None:
            desk.rows_changed()

    def wake_all() -> None:
        for name in forwarder.destinations():
            wake.notify(name)

    watch = StagingWatch(config, on_look=wake_all)

    def look_again() -> None:
        recovery.poke()
        rows_changed.set()
        wake_all()

    arrival_of = Arrivals(config)
    recovery = Recovery(
        config, jobs=jobs, staging=staging, arrival_of=arrival_of, joined=joined, stop=stop, notify=wake.notify
    )
    windows = windows_of(config, keeper)
    forwarder = Forwarder(
        config.destination,
        jobs=jobs,
        source=ByteSource(reader, staging),
        wake=wake,
        windows=windows,
        node=config.node.name,
        lease_seconds=config.jobs.lease_seconds,
        calling_ae=config.receive.ae_titles[0],
        study_quiet_seconds=config.routing.study_quiet_seconds,
        refusals_file=config.refusals_file,
    )

    intake = Intake(
        node=config.node.name,
        reader=reader,
        jobs=jobs,
        arrival_of=arrival_of,
        hints=hints,
        takers=forwarder,
        lease_seconds=config.jobs.lease_seconds,
        on_rows=rows_committed,
        on_poke=look_again,
        study_quiet_seconds=config.routing.study_quiet_seconds,
        gather_most_seconds=0.0 if wants_receipts(config) else GATHER_MOST_SECONDS,
    )
    desk = desk_of(config, reader=reader, jobs=jobs, staging=staging, rows=intake, hash_key=hash_key)
    sweep = Sweep(
        node=config.node.name,
        reader=reader,
        jobs=jobs,
        staging=staging,
        intake=intake,
        nudged=rows_changed,
        hash_key=hash_key,
        hot_seconds=config.staging.hot_seconds,
        keep_seconds=config.keep_seconds,
        min_free_bytes=config.spool.min_free_bytes,
        date=config.staging.date,
        keep_rows_seconds=config.keep_rows_seconds,
        shared=is_shared(config),
        puts_at_once=config.staging.puts_at_once,
        standby_lag_seconds=config.jobs.standby_lag_seconds,
        told_to=lambda: jobs.audit.told_to,
        on_trouble=watch.sweep_says,
        also_read=desk.reads if desk is not None else lambda _: False,
    )
    auditing = Auditing(config, jobs)

    def read_log() -> None:
        intake.recover()
        if not stop.event.is_set():
            alive("intake")
        recovery.spool_is_read(intake.all_read)
        intake.run()

    threads = [
        threading.Thread(target=recovery.guard(read_log), name="intake"),
        threading.Thread(target=recovery.guard(sweep.run), name="sweep"),
        threading.Thread(target=recovery.run, name="recovery"),
    ]
    if desk is not None:
        threads.append(threading.Thread(target=recovery.guard(desk.run), name="receipts"))
    # Not waited for at the end: it may hang as long as the storage does.
    threading.Thread(target=watch.run, args=(stop.event,), name="staging-watch", daemon=True).start()
    forwarder.start()
    auditing.start(recovery.guard)
    follow(Changes(jobs=jobs, arrivals=arrival_of, forwarder=forwarder, windows=windows, taken=auditing.take).prepare)
    for thread in threads:
        thread.start()
    stop.wait()
    intake.stop()
    poke(config.hint_socket)
    threads[0].join(_INTAKE_STOP_SECONDS)  # first: what it hands over is given back
    sweep.stop()
    if desk is not None:
        desk.stop()
    recovery.stop()
    forwarder.stop(_FORWARD_STOP_SECONDS)
    for thread in threads:
        thread.join()
    auditing.stop()
    hints.close()
    jobs.close()
    wake.close()
    if keeper is not None:
        keeper.close()
    return recovery.exit_code


def _open_jobs(config: Config, stop: Stop) -> tuple[JobStore, Joined] | None:
    """The job table, migrated, and what this node found joining; waits while it is down. None after `stop`."""
    told = ""
    while not stop.event.is_set():
        jobs = None
        try:
            jobs = JobStore.open(config.jobs_url, identifiers=config.node.identifiers, shared_staging=is_shared(config))
            if config.jobs.migrate:
                jobs.migrate()
            else:
                jobs.check_schema()
            # The node has one relay process and this is it: whoever held a lease is dead.
            joined = jobs.join(config.node.name, identity(config.node.state_dir), time.time())
        except (JobsError, OSError) as problem:
            if str(problem) != told:
                log.event(log.CRITICAL, "job-table-down", f"Relay waits for the job table: {problem}")
            told = str(problem)
            if jobs is not None:
                jobs.close()
            stop.event.wait(_RETRY_SECONDS)
        else:
            _tell(joined, shared=is_shared(config))
            return jobs, joined
    return None


def _tell(joined: Joined, *, shared: bool) -> None:
    if joined.leases_ended:
        log.event(log.INFO, "leases-ended", f"{joined.leases_ended} deliveries were in flight when the node last ended")
    if joined.others and shared:
        log.event(
            log.INFO,
            "job-table-shared",
            f"The job table is shared with {', '.join(joined.others)}, and so is staging: any of them delivers what is "
            "in it.",
        )
    elif joined.others:
        log.event(
            log.WARNING,
            "job-table-shared",
            f"The job table is shared with {', '.join(joined.others)}. Staging is on each node's own disk, so only the "
            "node that received an object delivers it: while a node is down, what it received waits for it.",
        )
