"""Which run a command of `tracelet run` is: a new one, that of an id, or that of a job which is started again."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tracelet.core import identity, jobs
from tracelet.core.options import Options
from tracelet.core.processes import run_above
from tracelet.errors import ConfigurationError
from tracelet.launch.arguments import Asked

__all__ = ["identify"]


def identify(options: Options, asked: Asked, home: Path, words: Sequence[str]) -> tuple[str, bool]:
    """The id of the run, and whether it was begun before.

    Args:
        options: the settings, with the command line's options.
        asked: those options.
        home: tracelet's home.
        words: the command.

    Returns:
        An empty id for a new run. Below another run the settings count no more: they are about that one.

    Raises:
        ConfigurationError: there is a run of that id, or none, against the user's word; or `--resume` without an id.
    """
    below = bool(run_above())
    run_id = asked.id or (None if below else options.id)
    if run_id is None:
        if asked.resume not in (None, "never", "checkpoint"):
            raise ConfigurationError(f"--resume {asked.resume} is about a run of a known id: give --id too")
        run_id = "" if below else jobs.run_id_of_job(home, words)
        return run_id, bool(run_id) and jobs.said() > 1
    begun = identity.find(home, run_id, options.resume)
    return run_id, begun is not None or (options.resume != "never" and jobs.said() > 1)
