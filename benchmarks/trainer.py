"""The process that `intercept.py` measures: logs with a SummaryWriter as any script would, and says what that cost as JSON.

python benchmarks/trainer.py log --points 20000 --tracelet
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from peers import PEERS

TAGS = ("train/loss", "train/accuracy", "train/grad_norm", "lr")
_CONNECT_DEADLINE = 20.0
_SETTLING = 0.15


def log(points: int, traced: bool, peer: str, pause: float, budget: float, before_stop: str) -> dict[str, Any]:
    """Log with a clock around each call.

    Args:
        points: how many.
        traced: under tracelet.
        peer: under this other tracker; empty for none.
        pause: seconds between two steps, in which TensorBoard's own thread can write; 0 for as fast as it goes.
        budget: seconds after which no more are logged.
        before_stop: "kill collector": SIGKILL for it before `stop_logging`; "die": SIGKILL for this process instead.
    """
    from torch.utils.tensorboard import SummaryWriter

    run = start() if traced else None
    finish = PEERS[peer].start(Path(tempfile.mkdtemp(prefix="peer-", dir=Path.cwd()))) if peer else None
    writer = SummaryWriter(tempfile.mkdtemp(prefix="events-", dir=Path.cwd()))
    add_scalar, clock, cpu = writer.add_scalar, time.perf_counter_ns, time.thread_time_ns
    for tag in TAGS:
        add_scalar(tag, 0.0, -1)
    if run is not None:
        settle(run)
    took: list[int] = []
    width = len(TAGS)
    in_calls, process_before = 0, time.process_time_ns()
    deadline = time.monotonic() + budget
    for step in range(points // width):
        before = cpu()
        for tag in TAGS:
            begun = clock()
            add_scalar(tag, 1.0 / (step + 1), step)
            took.append(clock() - begun)
        in_calls += cpu() - before
        if pause:
            time.sleep(pause)
        if time.monotonic() > deadline:
            break
    if before_stop == "die":
        print(json.dumps({"run_id": run.id if run else "", "sent": points + width}), flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    stopped = 0.0
    if run is not None:
        stopped = stop(kill_collector=before_stop == "kill collector")
    writer.close()
    if finish is not None:
        begun = time.perf_counter()
        finish()
        stopped = time.perf_counter() - begun
    process = time.process_time_ns() - process_before
    took.sort()
    calls = len(took)
    return {
        "run_id": run.id if run is not None else "",
        "sent": calls + width,
        "thread_us": in_calls / calls / 1e3,
        "process_us": process / calls / 1e3,
        "mean_us": sum(took) / calls / 1e3,
        "p50_us": took[calls // 2] / 1e3,
        "p99_us": took[calls * 99 // 100] / 1e3,
        "max_us": took[-1] / 1e3,
        "stop_s": stopped,
    }


def paired(blocks: int, calls: int, pause: float) -> dict[str, Any]:
    """CPU that a call takes, in blocks that take turns within one process: the original method, and the patched one.

    Args:
        blocks: of each kind.
        calls: in a block; a multiple of the number of tags.
        pause: seconds after every fourth call.
    """
    from types import MethodType

    from torch.utils.tensorboard import SummaryWriter

    run = start()
    writer = SummaryWriter(tempfile.mkdtemp(prefix="events-", dir=Path.cwd()))
    methods = {True: writer.add_scalar, False: MethodType(SummaryWriter.__dict__["add_scalar"].__wrapped__, writer)}
    writer.add_scalar("warm", 0.0, 0)
    settle(run)
    added, bare = [], []
    for number in range(blocks):
        cost = {}
        for traced in (True, False) if number % 2 else (False, True):
            add_scalar, in_calls = methods[traced], 0
            for step in range(calls // len(TAGS)):
                before = time.thread_time_ns()
                for tag in TAGS:
                    add_scalar(tag, 1.0 / (step + 1), step)
                in_calls += time.thread_time_ns() - before
                if pause:
                    time.sleep(pause)
            cost[traced] = in_calls / calls / 1e3
        added.append(cost[True] - cost[False])
        bare.append(cost[False])
    stop()
    return {"run_id": run.id, "added_us": statistics.median(added), "bare_us": statistics.median(bare)}


def start() -> Any:
    """Start a run."""
    import tracelet

    return tracelet.start_logging(project="bench")


def settle(run: Any) -> None:
    """Wait until the sender has connected and sent what there is: gRPC's import is paid once for each process."""
    until = time.monotonic() + _CONNECT_DEADLINE
    while True:
        recorded, durable = run.progress()
        if durable >= recorded:
            return
        if time.monotonic() > until:
            raise TimeoutError(f"{durable} of {recorded} records are durable after {_CONNECT_DEADLINE} s")
        time.sleep(0.01)


def stop(kill_collector: bool = False) -> float:
    """Stop the run; how long that took."""
    import tracelet

    if kill_collector:
        endpoint = json.loads((Path(os.environ["TRACELET_HOME"]) / "endpoint.json").read_text())
        os.kill(endpoint["pid"], signal.SIGKILL)
    begun = time.perf_counter()
    tracelet.stop_logging()
    return time.perf_counter() - begun


def imports() -> dict[str, Any]:
    """`import tracelet` in an interpreter that has nothing of it."""
    begun = time.perf_counter()
    import tracelet

    return {"import_ms": (time.perf_counter() - begun) * 1e3, "version": tracelet.__version__}


def starts(times: int) -> dict[str, Any]:
    """The first start_logging of a process (whose script has imported torch and tracelet), and later ones."""
    import torch.utils.tensorboard  # noqa: F401

    import tracelet

    took = []
    for _ in range(times):
        begun = time.perf_counter()
        tracelet.start_logging(project="bench")
        took.append((time.perf_counter() - begun) * 1e3)
        tracelet.stop_logging()
    return {"first_ms": took[0], "later_ms": statistics.median(took[1:])}


def loop(rate: int, pairs: int, seconds: float) -> dict[str, Any]:
    """A pure-Python loop beside a thread that logs `rate` points a second, by the original and the patched method in turns.

    The phases are short, so that a busy machine disturbs both alike, and their beginnings do not count: the sender is still
    busy with the phase before. Delivery to the tracker, in its own process, goes on all the time.
    """
    from types import MethodType

    from torch.utils.tensorboard import SummaryWriter

    run = start()
    writer = SummaryWriter(tempfile.mkdtemp(prefix="events-", dir=Path.cwd()))
    methods = {True: writer.add_scalar, False: MethodType(SummaryWriter.__dict__["add_scalar"].__wrapped__, writer)}
    writer.add_scalar("loss", 0.5, 0)
    settle(run)
    traced = False
    halt = threading.Event()

    def keep_logging() -> None:
        due, step = time.perf_counter(), 0
        while not halt.is_set():
            methods[traced]("loss", 0.5, step)
            step += 1
            due += 1 / rate
            if (wait := due - time.perf_counter()) > 0:
                time.sleep(wait)

    threading.Thread(target=keep_logging, name="logs", daemon=True).start()
    units(seconds)
    slower, taken = [], []
    for number in range(pairs):
        rates, others = {}, {}
        for traced in (True, False) if number % 2 else (False, True):
            units(_SETTLING)
            before, begun = time.process_time() - time.thread_time(), time.perf_counter()
            rates[traced] = units(seconds)
            spent = time.process_time() - time.thread_time() - before
            others[traced] = spent / (time.perf_counter() - begun)
        slower.append((rates[False] / rates[True] - 1) * 100)
        taken.append((others[True] - others[False]) * 100)
    halt.set()
    stop()
    return {"run_id": run.id, "slower_percent": slower, "taken_percent": taken}


def units(seconds: float) -> float:
    """Turns of a pure-Python loop, in a second of wall time."""
    turns, begun = 0, time.perf_counter()
    while (passed := time.perf_counter() - begun) < seconds:
        total = 0
        for number in range(10_000):
            total += number * number % 7
        turns += 1
    return turns / passed


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("what", choices=("log", "paired", "imports", "starts", "loop"))
    parser.add_argument("--points", type=int, default=20_000)
    parser.add_argument("--tracelet", action="store_true")
    parser.add_argument("--peer", default="", choices=("", *PEERS))
    parser.add_argument("--pause", type=float, default=0.0)
    parser.add_argument("--budget", type=float, default=600.0)
    parser.add_argument("--before-stop", default="", choices=("", "kill collector", "die"))
    parser.add_argument("--pairs", type=int, default=40)
    parser.add_argument("--seconds", type=float, default=0.4)
    args = parser.parse_args()
    match args.what:
        case "log":
            said = log(args.points, args.tracelet, args.peer, args.pause, args.budget, args.before_stop)
        case "paired":
            said = paired(args.points // 400, 400, args.pause)
        case "imports":
            said = imports()
        case "starts":
            said = starts(times=6)
        case _:
            said = loop(1000, args.pairs, args.seconds)
    print(json.dumps(said), flush=True)


if __name__ == "__main__":
    main()
