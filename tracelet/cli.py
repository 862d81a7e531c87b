"""The `tracelet` command.

`tracelet run` is read by a few lines of our own: importing what reads the other commands, and pydantic with it, would take
longer than all that is done before the user's script starts.
"""

from __future__ import annotations

import sys

from tracelet.errors import CollectorError, TraceletError

__all__ = ["main"]


def main() -> int:
    """Run the command line.

    Returns:
        The exit code: the command's; 2 for what cannot be done as it was asked, 1 when no collector could be reached.
    """
    try:
        return _dispatch(sys.argv[1:])
    except CollectorError as error:
        sys.stderr.write(f"tracelet: {error}\n")
        return 1
    except TraceletError as error:
        sys.stderr.write(f"tracelet: {error}\n")
        return 2


def _dispatch(words: list[str]) -> int:
    if words[:1] == ["run"]:
        from tracelet.launch.arguments import read

        read_so_far = read(words[1:])
        if read_so_far is not None:
            from tracelet.launch.start import start

            return start(*read_so_far)
    from tracelet.commands.app import app

    app()
    return 0
