"""What `make demo` runs: an unmodified training script under tracelet, then three independent counts of its points.

Sent is counted in the event files that TensorBoard wrote, durable in the collector's log, delivered in the MLflow store. The
command fails when they differ. (What tracelet measures by itself, `system/…`, is not counted: no event file has it.) Everything
it makes lies in one folder; running it again adds a run to the same store.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path

from curves import draw_picture, draw_terminal
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parents[1]
TRACELET = Path(sys.executable).with_name("tracelet")
PROJECT = "digits"
DEADLINE = 180
OURS = ("optim/", "system/")  # what tracelet measures by itself: nobody has sent that

console = Console(highlight=False)


class Demo:
    """One demonstration.

    Args:
        out: the folder that holds everything.
        epochs: length of the training.
    """

    def __init__(self, out: Path, epochs: int) -> None:
        self.name = f"digits-{time.strftime('%Y%m%d-%H%M%S')}"
        self.epochs = epochs
        self.out = out
        self.home = out / "home"
        self.events = out / "events" / self.name
        self.store = f"sqlite:///{out / 'mlflow.db'}"
        settings = {
            "TRACELET_HOME": str(self.home),
            "MLFLOW_TRACKING_URI": self.store,
            "MLFLOW_DISABLE_TELEMETRY": "true",
        }
        self.environment = {name: value for name, value in os.environ.items() if not name.startswith("TRACELET_")}
        self.environment.update(settings)
        os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

    def tracelet(self, *words: str | Path) -> int:
        """One of tracelet's commands, as a person would type it, with what it says."""
        shown = " ".join(short(word) if isinstance(word, Path) else word for word in words)
        console.print(f"\n[bold]$ tracelet {shown}[/]", soft_wrap=True)
        return subprocess.run([TRACELET, *words], env=self.environment, check=False).returncode

    def train(self) -> int:
        """Train under tracelet; the script's exit code."""
        return self.tracelet(
            *("run", "--project", PROJECT, "--name", self.name, "--backend", "mlflow"),
            *(ROOT / "examples" / "digits.py", "--epochs", str(self.epochs), "--log-dir", self.events),
        )

    def run_id(self) -> str:
        """The id that tracelet gave the run."""
        asked = subprocess.run(
            [TRACELET, "status", "--json"], env=self.environment, check=True, capture_output=True, text=True, timeout=60
        )
        (run,) = (run for run in json.loads(asked.stdout)["runs"] if run["name"] == self.name)
        return str(run["run_id"])

    def sent(self) -> Counter[str]:
        """Points of each metric in TensorBoard's event files. The folders of the two writers are their labels."""
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        counts: Counter[str] = Counter()
        for folder in sorted(self.events.iterdir()):
            events = EventAccumulator(str(folder), size_guidance={"scalars": 0})
            events.Reload()
            for tag in events.Tags()["scalars"]:
                counts[f"{folder.name}/{tag}"] += len(events.Scalars(tag))
        return counts

    def durable(self, run_id: str) -> Counter[str]:
        """Points of each metric in the collector's log."""
        from tracelet_collector.log.schema import open_reader

        from tracelet.core.metrics import Metric
        from tracelet.proto import codec
        from tracelet.proto.v1 import records_pb2 as pb

        counts: Counter[str] = Counter()
        dictionaries: dict[int, dict[int, pb.TagDef]] = {}
        with closing(open_reader(self.home / "log" / "tracelet.db")) as log:
            for stream, payload in log.execute(
                "SELECT stream, payload FROM batches JOIN runs USING (run) WHERE run_id = ? ORDER BY lsn", (run_id,)
            ):
                names = dictionaries.setdefault(stream, {})
                for _, record in codec.decode(pb.Batch.FromString(payload), names):
                    if isinstance(record, Metric) and not record.name.startswith(OURS):
                        counts[record.name] += 1
        return counts

    def delivered(self, run_id: str) -> dict[str, list[tuple[int, float]]]:
        """Points of each metric in the MLflow store, as step and value."""
        from mlflow import MlflowClient

        client = MlflowClient(self.store)
        experiments = [each.experiment_id for each in client.search_experiments()]
        runs = client.search_runs(experiments, f"tags.`tracelet.run_id` = '{run_id}'")
        return {
            name: sorted((point.step, point.value) for point in client.get_metric_history(run.info.run_id, name))
            for run in runs
            for name in run.data.metrics
            if not name.startswith(OURS)
        }

    def facts(self, run_id: str) -> dict[str, str]:
        """What the MLflow store says that the run was."""
        from mlflow import MlflowClient

        client = MlflowClient(self.store)
        experiments = [each.experiment_id for each in client.search_experiments()]
        (run,) = client.search_runs(experiments, f"tags.`tracelet.run_id` = '{run_id}'")
        said = {**run.data.params, **run.data.tags}
        return {
            name: said[name] for name in ("command", "git.commit", "git.dirty", "epochs", "host.name") if name in said
        }


def short(path: Path) -> str:
    """A path as a person would type it here."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def compare(name: str, sent: Mapping[str, int], durable: Mapping[str, int], delivered: Mapping[str, int]) -> bool:
    """Print the three counts; whether they agree."""
    table = Table(title="points", title_justify="left")
    for column in ("run", "metric", "sent", "durable", "delivered"):
        table.add_column(column, justify="left" if column in ("run", "metric") else "right")
    for number, metric in enumerate(sorted({*sent, *durable, *delivered})):
        counts = [each.get(metric, 0) for each in (sent, durable, delivered)]
        style = None if len(set(counts)) == 1 else "bold red"
        table.add_row("" if number else name, metric, *(f"{count:,}" for count in counts), style=style)
    table.add_section()
    table.add_row("", "all", *(f"{sum(each.values()):,}" for each in (sent, durable, delivered)), style="bold")
    console.print()
    console.print(table)
    return bool(sent) and dict(sent) == dict(durable) == dict(delivered)


def main() -> int:
    """Run the demonstration; 0 when everything that was sent has arrived."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument("--out", type=Path, default=ROOT / "demo-out", help="folder for everything that it makes")
    args = parser.parse_args()
    demo = Demo(args.out.absolute(), args.epochs)
    demo.out.mkdir(parents=True, exist_ok=True)

    if (code := demo.train()) != 0:
        console.print(f"[red]the training ended with {code}[/]")
        return code
    run_id = demo.run_id()
    waited = demo.tracelet("wait", run_id, "--timeout", str(DEADLINE))
    demo.tracelet("status")
    demo.tracelet("stop")
    with console.status("counting: event files, collector's log, MLflow store"):
        series = demo.delivered(run_id)
        same = compare(
            demo.name, demo.sent(), demo.durable(run_id), {name: len(points) for name, points in series.items()}
        )
    if waited != 0 or not same:
        console.print("[bold red]The counts differ: not every point that was sent has arrived.[/]")
        return 1
    console.print("\nwhat the run was")
    for name, value in demo.facts(run_id).items():
        console.print(f"  {name:<11} {value}", soft_wrap=True)
    with console.status("drawing"):
        picture = demo.out / "curves.png"
        draw_picture(series, f"{demo.name}: every point from the MLflow store", picture)
        text = draw_terminal(series, console.width, colour=console.is_terminal)
    console.out(text, highlight=False)
    console.print(f"\nThe curves as a picture:  {short(picture)}", soft_wrap=True)
    console.print("See the run in MLflow:", soft_wrap=True)
    mlflow = short(TRACELET.with_name("mlflow"))
    console.print(f"    {mlflow} ui --backend-store-uri {demo.store}", style="bold", soft_wrap=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
