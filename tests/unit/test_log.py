"""A line can't be forged, holds no UID, has the agreed keys, and never troubles the one who logs."""

import io
import json
import logging
import os
import re
import subprocess
import sys
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relaypacs import log

KEYS = ["timestamp", "level", "service", "event", "trace_id", "user_id", "upload_id", "message", "latency_ms"]


@pytest.fixture
def lines():
    """Lines written so far, with a level of `info`; the process's own setting comes back afterwards."""
    stream = io.StringIO()
    log.setup(level="info", json_lines=True, service="test", hash_key=b"key", stream=stream)
    yield lambda: stream.getvalue().splitlines()
    log.setup(level="info", json_lines=True, service="relaypacs")


def test_the_keys_of_the_operators_pipeline(lines):
    log.event(
        log.WARNING, "association-rejected", "No.", trace_id="a1", user_id="CT", upload_id="ff", latency_ms=1.26, n=3
    )
    line = json.loads(lines()[0])
    assert list(line) == [*KEYS, "n"]
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["timestamp"])
    assert (line["level"], line["service"], line["event"], line["message"]) == (
        "WARNING", "test", "association-rejected", "No.",
    )  # fmt: skip
    assert (line["trace_id"], line["user_id"], line["upload_id"], line["latency_ms"], line["n"]) == (
        "a1", "CT", "ff", 1.3, 3,
    )  # fmt: skip


def test_without_a_latency_its_key_says_nothing(lines):
    log.event(log.INFO, "x", "y")
    line = json.loads(lines()[0])
    assert list(line) == KEYS
    assert line["latency_ms"] is None


@pytest.mark.parametrize(
    ("level", "written"),
    [
        ("debug", ["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]),
        ("info", ["INFO", "WARNING", "ERROR", "CRITICAL"]),
        ("warning", ["WARNING", "ERROR", "CRITICAL"]),
        ("error", ["ERROR", "CRITICAL"]),
        ("critical", ["CRITICAL"]),
    ],
)
def test_the_five_levels(level, written):
    stream = io.StringIO()
    log.setup(level=level, json_lines=True, service="test", stream=stream)
    for one in (log.DEBUG, log.INFO, log.WARNING, log.ERROR, log.CRITICAL):
        log.event(one, "x", "y")
    assert [json.loads(line)["level"] for line in stream.getvalue().splitlines()] == written
    log.setup(level="info", json_lines=True, service="relaypacs")


HOSTILE = st.text() | st.sampled_from(
    ["\n", "\r\n{}", '","level":"CRITICAL', "\x1b[31m", "%s", "\u2028", "\ud800", "\0"]
)


@given(HOSTILE, HOSTILE, HOSTILE, st.booleans())
def test_whatever_a_peer_sends_it_stays_one_line_without_control_characters(title, message, value, json_lines):
    stream = io.StringIO()
    log.setup(level="info", json_lines=json_lines, service="test", stream=stream)
    log.event(log.INFO, "x", message, user_id=title, peer_value=value)
    text = stream.getvalue()
    assert text.endswith("\n")
    assert text[:-1].isprintable()
    assert text.isascii()
    if json_lines:
        line = json.loads(text)
        assert (line["user_id"], line["message"], line["peer_value"]) == (title, message, value)
        assert line["level"] == "INFO"


def test_long_values_are_cut(lines):
    log.event(log.INFO, "x", "m" * 10_000, value="v" * 10_000)
    assert len(lines()[0]) < 1000


def test_values_that_json_does_not_know_are_text(lines, tmp_path):
    log.event(log.INFO, "x", "y", path=tmp_path, raw=b"\0", error=OSError(28, "full"))
    assert json.loads(lines()[0])["path"] == str(tmp_path)


def test_text_for_people():
    stream = io.StringIO()
    log.setup(level="info", json_lines=False, service="receive", stream=stream)
    log.event(log.ERROR, "spool-full", "No room.", trace_id="a1", free_bytes=7)
    assert re.fullmatch(
        r'\S+Z ERROR    receive: spool-full: No room\. trace_id="a1" free_bytes=7\n', stream.getvalue()
    )  # fmt: skip
    log.setup(level="info", json_lines=True, service="relaypacs")


def test_a_hash_tells_nothing_without_the_key(lines):
    one = log.uid_hash("1.2.3")
    assert re.fullmatch("[0-9a-f]{16}", one)
    assert one == log.uid_hash("1.2.3") != log.uid_hash("1.2.4")
    log.setup(level="info", json_lines=True, service="test", hash_key=b"other")
    assert log.uid_hash("1.2.3") != one
    assert log.uid_hash("") == ""
    assert log.uid_hash("\ud800")


def test_rename(lines):
    log.rename("receive-1")
    log.event(log.INFO, "x", "y")
    assert json.loads(lines()[0])["service"] == "receive-1"


def test_libraries_that_quote_peers_are_silent():
    heard = []

    class Ear(logging.Handler):
        def emit(self, record):
            heard.append(record.getMessage())

    ear = Ear()
    names = ("pydicom", "pynetdicom", "pynetdicom.acse", "pynetdicom.service-c")
    logging.getLogger().addHandler(ear)
    try:
        for name in names:
            logging.getLogger(name).isEnabledFor(logging.CRITICAL)  # what the logging module remembers
        log.setup(level="debug", json_lines=True, service="test", stream=io.StringIO())
        for name in names:
            logging.getLogger(name).critical("Doe^John")
    finally:
        logging.getLogger().removeHandler(ear)
    assert heard == []


def test_no_library_writes_to_standard_error_by_itself():
    program = (
        "import logging; from relaypacs import log\n"
        "log.setup(level='debug', json_lines=True, service='test')\n"
        "logging.getLogger('urllib3.connection').warning('Failed to parse headers: PATIENT^NAME')\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_warnings_of_pydicom_are_silent():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        log.setup(level="info", json_lines=True, service="test", stream=io.StringIO())
        warnings.warn_explicit("Doe^John", UserWarning, "charset.py", 1, module="pydicom.charset")
        warnings.warn_explicit("ours", UserWarning, "x.py", 1, module="relaypacs.x")
    assert [str(one.message) for one in caught] == ["ours"]


class Broken(io.StringIO):
    def write(self, text):
        raise BrokenPipeError


def test_a_log_that_nobody_reads_troubles_no_one():
    closed = io.StringIO()
    closed.close()
    for stream in (Broken(), closed):
        log.setup(level="info", json_lines=True, service="test", stream=stream)
        log.event(log.CRITICAL, "x", "y")
    log.setup(level="info", json_lines=True, service="relaypacs")


def test_lines_of_processes_that_share_a_pipe_stay_whole():
    program = (
        "import os\nfrom relaypacs import log\nlog.setup(level='info', json_lines=True, service='s')\n"
        "child = os.fork()\n"
        "for n in range(300): log.event(log.INFO, 'x', 'm' * 200, n=n)\n"
        "if child: os.waitpid(child, 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], stderr=subprocess.PIPE, check=True, env={**os.environ})
    lines = done.stderr.decode().splitlines()
    assert len(lines) == 600
    assert sorted(json.loads(line)["n"] for line in lines) == sorted([*range(300), *range(300)])


WRITER = """
import sys, threading
from pathlib import Path
from relaypacs import log
log.setup(level="info", json_lines=True, service=sys.argv[2], stream=log.LogFile(Path(sys.argv[1])))
def write(thread):
    for number in range(1500):
        log.event(log.INFO, "x", f"{thread}-{number}", value="ü" * 200)
threads = [threading.Thread(target=write, args=(one,)) for one in range(3)]
[one.start() for one in threads]
[one.join() for one in threads]
"""


def test_a_file_may_be_renamed_at_any_time(tmp_path):
    path = tmp_path / "node.log"
    writers = [subprocess.Popen([sys.executable, "-c", WRITER, path, f"p{number}"]) for number in range(3)]
    turns = 0
    while any(one.poll() is None for one in writers):
        if path.exists():
            turns += 1
            path.rename(tmp_path / f"node.log.{turns}")
    assert [one.wait() for one in writers] == [0, 0, 0]
    assert turns > 5
    lines = [json.loads(line) for file in tmp_path.iterdir() for line in file.read_text().splitlines()]
    found = sorted((line["service"], line["message"]) for line in lines)
    assert found == sorted((f"p{p}", f"{t}-{n}") for p in range(3) for t in range(3) for n in range(1500))


def test_a_log_folder_that_goes_away_costs_nothing_but_its_name(tmp_path):
    folder = tmp_path / "log"
    folder.mkdir()
    file = log.LogFile(folder / "node.log")
    assert (folder / "node.log").stat().st_mode & 0o777 == 0o640
    file.write("one\n")
    folder.rename(tmp_path / "old")
    file.write("two\n")
    folder.mkdir()
    file.write("three\n")
    assert (tmp_path / "old" / "node.log").read_text() == "one\ntwo\n"
    assert (folder / "node.log").read_text() == "three\n"
    with pytest.raises(FileNotFoundError):
        log.LogFile(tmp_path / "nowhere" / "node.log")
