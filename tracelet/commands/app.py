"""The commands and their options, as typer reads them. What a command does is in a file of its own, imported when used."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from tracelet.version import __version__

__all__ = ["app"]

app = typer.Typer(
    name="tracelet",
    help="Metrics of unmodified training scripts, whole, in MLflow, Weights & Biases, ClearML and TensorBoard.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_MOST_ID = 2**63 - 1
# Whatever follows the command belongs to the command.
_VERBATIM = {"ignore_unknown_options": True, "allow_interspersed_args": False}


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"tracelet {__version__}")
        raise typer.Exit


@app.callback()
def _tracelet(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


@app.command(context_settings=_VERBATIM, options_metavar="[OPTIONS]")
def run(
    command: Annotated[
        list[str] | None,
        typer.Argument(metavar="COMMAND", show_default=False, help="script.py …, -m module …, or any command."),
    ] = None,
    project: Annotated[
        str | None, typer.Option(metavar="P", help="MLflow experiment, W&B project, ClearML project.")
    ] = None,
    name: Annotated[str | None, typer.Option(metavar="N", help="The run's name.  [default: script and time]")] = None,
    backend: Annotated[str | None, typer.Option(metavar="B", help="Tracker, or several: a,b.")] = None,
    run_id: Annotated[
        str | None, typer.Option("--id", metavar="ID", show_default=False, help="The run's id.  [default: a new one]")
    ] = None,
    resume: Annotated[
        str | None,
        typer.Option(metavar="R", show_default=False, help="A run of that id: auto, must, checkpoint or never."),
    ] = None,
    wait: Annotated[bool, typer.Option("--wait", help="Do not end before everything is delivered.")] = False,
) -> None:
    """Run a command, and record what it logs. Its code, process and exit code stay what they are.

    Options come before the command; what follows it is the command's own.

      tracelet run --project digits train.py --epochs 3

      tracelet run python -u train.py

      tracelet run torchrun --nproc-per-node 2 train.py
    """
    # `tracelet.cli` reads these options itself and comes here for the help alone; this is for whoever calls `app`.
    from tracelet.launch.arguments import Asked
    from tracelet.launch.start import start

    asked = Asked(project=project, name=name, backend=backend, id=run_id, resume=resume, wait=wait)
    raise typer.Exit(start(command or [], asked))


@app.command()
def status(
    as_json: Annotated[
        bool, typer.Option("--json", help="For programs: one JSON document on standard output.")
    ] = False,
) -> None:
    """Show the runs: what was received, and how far each tracker has got."""
    from tracelet.commands.status import show

    show(as_json=as_json)


@app.command()
def runs(
    as_json: Annotated[
        bool, typer.Option("--json", help="For programs: one JSON document on standard output.")
    ] = False,
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="So many at most; 0 for all.")] = 20,
) -> None:
    """List the runs, the newest first."""
    from tracelet.commands.runs import list_runs

    list_runs(limit, as_json=as_json)


@app.command()
def wait(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", show_default=False, help="Id, start of an id, or name.  [default: all runs]"),
    ] = None,
    timeout: Annotated[float | None, typer.Option(metavar="S", min=0.0, help="Seconds.  [default: for ever]")] = None,
) -> None:
    """Wait until everything is delivered everywhere. A collector is started when none runs.

    Exit code 0 when all is delivered, 1 with what is missing, 2 when there is no such run. A run that is still being
    written counts as what it has sent so far.
    """
    from tracelet.commands.wait import wait_for

    raise typer.Exit(wait_for(run, timeout))


@app.command()
def sync(
    folder: Annotated[
        Path | None,
        typer.Argument(metavar="[DIR]", show_default=False, help="Another home or a folder of spools to take in, too."),
    ] = None,
    timeout: Annotated[float | None, typer.Option(metavar="S", min=0.0, help="Seconds.  [default: for ever]")] = None,
    keep: Annotated[bool, typer.Option("--keep", help="Leave the spools in DIR where they are.")] = False,
) -> None:
    """Take in what was left when everything was killed, and deliver it. A collector is started when none runs.

    With DIR, what another home or a copied folder of spools has is taken into this home; a spool is deleted there when it is
    durable here. Exit code 0 when all is delivered, 1 with what is missing.
    """
    from tracelet.commands.sync import sync

    raise typer.Exit(sync(folder, timeout, keep=keep))


@app.command()
def replay(
    run: Annotated[str, typer.Argument(metavar="RUN", show_default=False, help="Id, start of an id, or name.")],
    to: Annotated[
        str,
        typer.Option(
            "--to", metavar="BACKEND[=TARGET]", show_default=False, help="Where; by default where a script would."
        ),
    ],
    again: Annotated[
        bool, typer.Option("--again", help="Though the run goes there already: from the first record on.")
    ] = False,
    no_wait: Annotated[bool, typer.Option("--no-wait", help="Do not wait for delivery.")] = False,
    timeout: Annotated[float | None, typer.Option(metavar="S", min=0.0, help="Seconds.  [default: for ever]")] = None,
) -> None:
    """Deliver a past run to a tracker that it never went to, or rebuild it there. A collector is started when none runs.

    Exit code 0 when all is delivered, 1 with what is missing, 2 when it cannot be done as it was asked.
    """
    from tracelet.commands.replay import replay

    raise typer.Exit(replay(run, to, timeout, again=again, wait=not no_wait))


letters = typer.Typer(
    help="Points that a tracker will never take: list them, try them again, drop them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(letters, name="dead-letters")

_Ids = Annotated[
    list[int] | None, typer.Argument(metavar="[ID]…", min=1, max=_MOST_ID, show_default=False, help="Of letters.")
]
_Run = Annotated[str | None, typer.Option("--run", metavar="RUN", help="Those of a run: id, start of an id, or name.")]
_Backend = Annotated[str | None, typer.Option("--backend", metavar="B", help="Those of a backend.")]
_All = Annotated[bool, typer.Option("--all", help="All there are.")]
_Json = Annotated[bool, typer.Option("--json", help="For programs: one JSON document on standard output.")]


@letters.command("list")
def list_letters(
    run: Annotated[
        str | None,
        typer.Argument(metavar="[RUN]", show_default=False, help="Id, start of an id, or name.  [default: all runs]"),
    ] = None,
    backend: _Backend = None,
    as_json: _Json = False,
    limit: Annotated[int, typer.Option(metavar="N", min=0, help="So many at most; 0 for all.")] = 100,
) -> None:
    """List them, the oldest first."""
    from tracelet.commands.dead_letters import list_letters

    list_letters(run, backend, limit, as_json=as_json)


@letters.command("show")
def show_letter(
    letter: Annotated[
        int, typer.Argument(metavar="ID", min=1, max=_MOST_ID, show_default=False, help="Of the letter.")
    ],
    as_json: _Json = False,
) -> None:
    """Show all that is known of one."""
    from tracelet.commands.dead_letters import show_letter

    show_letter(letter, as_json=as_json)


@letters.command("redrive")
def redrive_letters(ids: _Ids = None, run: _Run = None, backend: _Backend = None, all_letters: _All = False) -> None:
    """Try them again. A collector is started when none runs."""
    from tracelet.commands.dead_letters import Chosen, redrive

    raise typer.Exit(redrive(Chosen(ids or (), run, backend, all_letters)))


@letters.command("drop")
def drop_letters(
    ids: _Ids = None,
    run: _Run = None,
    backend: _Backend = None,
    all_letters: _All = False,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Drop them: nobody can try them again, and their points stay counted as dead."""
    from tracelet.commands.dead_letters import Chosen, drop

    raise typer.Exit(drop(Chosen(ids or (), run, backend, all_letters), yes=yes))


@app.command()
def doctor(
    as_json: Annotated[
        bool, typer.Option("--json", help="For programs: one JSON document on standard output.")
    ] = False,
    deep: Annotated[
        bool, typer.Option("--deep", help="Import the libraries too, to see what is patched, and by whom.")
    ] = False,
) -> None:
    """Show what is installed, what would be captured, where everything is, what is wrong, and how to mend it.

    Exit code 1 when there is a problem.
    """
    from tracelet.commands.doctor import show

    raise typer.Exit(show(as_json=as_json, deep=deep))


@app.command()
def stop(
    timeout: Annotated[float, typer.Option(metavar="S", min=0.0, help="Seconds that it may go on delivering.")] = 10.0,
) -> None:
    """Stop the local collector. What is not delivered is kept; the next collector goes on with it."""
    from tracelet.commands.stop import stop_collector

    raise typer.Exit(stop_collector(timeout))


@app.command()
def collector(
    home: Annotated[
        str | None, typer.Option(metavar="H", help="Where it keeps its log.  [default: TRACELET_HOME]")
    ] = None,
    idle: Annotated[
        float | None, typer.Option(metavar="S", min=0.0, help="End after so many seconds without work.")
    ] = None,
    listen: Annotated[str | None, typer.Option(metavar="HOST:PORT", help="Listen there too (loopback only).")] = None,
) -> None:
    """Run a collector here, in the foreground. Scripts start one by themselves."""
    from tracelet.commands.collector import serve

    serve(home, idle, listen)
