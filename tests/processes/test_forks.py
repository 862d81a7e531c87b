"""Children that a script forks: whatever becomes of them, what they logged arrives, and nobody hangs or says a word."""

from __future__ import annotations

import pytest

from tests.support.clients import Client
from tests.support.processes import until

FORK = """
def fork(what):
    if (child := os.fork()) == 0:
        what()
        os._exit(99)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
def log(name):
    for step in range(50): run.log_metric(name, step, step)
run = tracelet.start_logging(exp_name=NAME)
log("parent")
"""

# What the child does, and what its parent sees of it.
CHILDREN = {
    "ends at once": ("os._exit(0)", 0, 0),
    "logs and ends at once": ("log('child'); os._exit(3)", 3, 50),
    "logs and ends as programs do": ("log('child'); sys.exit(4)", 4, 50),
    "logs and is killed": ("log('child'); os.kill(os.getpid(), signal.SIGKILL)", -9, 50),
    "logs and crashes": ("log('child'); os.abort()", -6, 50),
    "is terminated in the middle": (
        "threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start(); [log('child') for _ in iter(int, 1)]",
        -15,
        50,
    ),
    "logs and becomes another program": ("log('child'); os.execv('/bin/sh', ['sh', '-c', 'exit 5'])", 5, 50),
    "becomes another program": ("os.execv('/bin/sh', ['sh', '-c', 'exit 6'])", 6, 0),
    "logs on a thread": ("t = threading.Thread(target=log, args=('child',)); t.start(); t.join(); os._exit(0)", 0, 50),
    "stops, and goes on": ("log('child'); tracelet.stop_logging(); os._exit(0)", 0, 50),
    "starts": ("tracelet.start_logging(exp_name='x'); log('child'); tracelet.stop_logging(); os._exit(0)", 0, 50),
    "forks again": ("sys.exit(fork(lambda: (log('child'), os._exit(7))))", 7, 50),
}


@pytest.mark.parametrize("child", CHILDREN)
def test_a_forked_child(shared: Client, child: str) -> None:
    code, exit_code, least = CHILDREN[child]
    done = shared.run(
        f"NAME = {child!r}\n{FORK}\ndef what():\n    {code}\ncode = fork(what)\nlog('parent again')\ntell(code)",
        PYTHONFAULTHANDLER=None,  # it would tell of the child that crashes
    )
    assert (done.code, done.err, done.told) == (0, "", exit_code)
    assert shared.status(child) == "finished"
    expected = [(step, float(step)) for step in range(50)]
    assert shared.points(child, "parent") == shared.points(child, "parent again") == expected
    points = shared.points(child, "child")
    if child != "is terminated in the middle":
        assert points == expected[:least]
    else:
        assert points[:least] == expected[:least]


def test_the_parent_of_a_fork_is_killed(shared: Client) -> None:
    """Its run is over; what the child logs afterwards arrives nevertheless."""
    script = shared.start(
        f"""
NAME = "killed parent"
{FORK}
reader, writer = os.pipe()
if os.fork() == 0:
    os.close(writer)
    os.read(reader, 1)  # until the parent is gone
    log("child")
    os._exit(0)
tell(1)
os.kill(os.getpid(), signal.SIGKILL)
"""
    )
    assert script.finish(60).code == -9
    assert shared.status("killed parent") == "killed"
    assert shared.points("killed parent", "child") == [(step, float(step)) for step in range(50)]


@pytest.mark.parametrize("ends", ["os._exit(0)", "sys.exit(0)"])
def test_children_that_outlive_their_parent(shared: Client, ends: str) -> None:
    """As daemons do. The parent ends at once, and so does its run."""
    name = f"daemon {ends}"
    done = shared.run(
        f"""
NAME = {name!r}
{FORK}
reader, writer = os.pipe()
if os.fork() == 0:
    os.close(writer)
    os.read(reader, 1)
    log("child")
    {ends}
"""
    )
    assert (done.code, done.err) == (0, "")
    assert shared.status(name) == "finished"
    # The child begins when the parent is gone, and may come after the run's end.
    until(lambda: len(shared.points(name, "child")) == 50, 30, "the child's points")
    assert shared.points(name, "child") == [(step, float(step)) for step in range(50)]
    assert shared.status(name) == "finished"
