"""A failpoint kills once, at the passage ordered, in whichever process comes first; without an order it is nothing."""

import os
import signal
import subprocess
import sys
import timeit
from pathlib import Path

from relaypacs import failpoint
from tests.crash.harness.points import BY_NAME, ELSEWHERE, places

ROOT = Path(__file__).parents[2]
PASSING = (
    "from relaypacs.failpoint import reach\nfor n in range(5): reach('other.point'); reach('room.point'); print(n)"
)


def passes(order, once="", script=PASSING):
    """Exit code and output of a process that passes `room.point` five times."""
    environment = {**os.environ, "RELAYPACS_FAILPOINT": order, "RELAYPACS_FAILPOINT_ONCE": str(once)}
    done = subprocess.run(
        [sys.executable, "-u", "-c", script], env=environment, capture_output=True, text=True, timeout=30
    )
    return done.returncode, done.stdout.split()


def test_without_an_order_nothing_happens():
    assert passes("") == (0, list("01234"))


def test_the_process_kills_itself_at_the_passage_ordered():
    assert passes("room.point:1") == (-signal.SIGKILL, [])
    assert passes("room.point:3") == (-signal.SIGKILL, list("01"))
    assert passes("room.point:6") == (0, list("01234"))


def test_the_process_stops_itself_and_goes_on_when_it_is_told_to():
    child = subprocess.Popen(
        [sys.executable, "-u", "-c", PASSING],
        env={**os.environ, "RELAYPACS_FAILPOINT": "room.point:2:stop"},
        stdout=subprocess.PIPE,
        text=True,
    )
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status)
    os.kill(child.pid, signal.SIGCONT)
    assert child.communicate(timeout=30)[0].split() == list("01234")
    assert child.returncode == 0


def test_broken_orders_kill_nobody():
    for order in (
        "room.point",
        "room.point:",
        "room.point:0",
        "room.point:-1",
        "room.point:x",
        ":1",
        "another.point:1",
        "room.point:1:pause",
    ):
        assert passes(order) == (0, list("01234")), order


def test_once_means_one_life(tmp_path):
    once = tmp_path / "once"
    assert passes("room.point:2", once) == (-signal.SIGKILL, ["0"])
    assert once.exists()
    assert passes("room.point:2", once) == (0, list("01234"))


def test_an_order_in_a_file_is_carried_out_once_and_taken_away(tmp_path):
    order, reached = tmp_path / "order", tmp_path / "order.reached"
    assert passes(f"@{order}") == (0, list("01234"))
    order.write_text("room.point:4\n")
    assert passes(f"@{order}") == (-signal.SIGKILL, list("012"))
    assert reached.exists()
    assert not order.exists()
    assert passes(f"@{order}") == (0, list("01234"))


def test_a_running_process_sees_a_new_order_and_counts_from_it(tmp_path):
    order = tmp_path / "order"
    order.write_text("other.point:100")
    script = (
        "from relaypacs.failpoint import reach\nimport os\n"
        "for n in range(3): reach('room.point')\n"
        f"open({str(tmp_path / 'draft')!r}, 'w').write('room.point:2')\n"
        f"os.rename({str(tmp_path / 'draft')!r}, {str(order)!r})\n"
        "for n in range(3): reach('room.point'); print(n)\n"
    )
    assert passes(f"@{order}", script=script) == (-signal.SIGKILL, ["0"])


def test_the_suite_knows_every_point_and_the_program_has_every_one():
    assert sorted(places()) == sorted([*BY_NAME, *ELSEWHERE])
    for point, path in ELSEWHERE.items():
        assert f'"{point}:' in (ROOT / path).read_text(encoding="utf-8")


def test_a_point_costs_nothing():
    best = min(timeit.repeat(lambda: failpoint.reach("room.point"), number=20_000, repeat=5)) / 20_000
    assert best < 2e-6  # measured: 40 ns; an object passes about ten points while it is answered
