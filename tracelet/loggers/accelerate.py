"""`TraceletTracker` for Accelerate, made when it is asked for: importing this file does not import Accelerate.

It makes `Accelerator(log_with="tracelet")` known, where Accelerate has a place for trackers of others. With a run, or under
`tracelet run`, that is done by itself.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import wrapt

from tracelet.guard import swallow

if TYPE_CHECKING:
    from tracelet.loggers.accelerate_tracker import TraceletTracker

__all__ = ["TraceletTracker"]

_NAME: Final = "tracelet"


def __getattr__(name: str) -> Any:
    if name == "TraceletTracker":
        from tracelet.loggers.accelerate_tracker import tracker_class

        globals()[name] = tracker_class(__name__)
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _offer(module: ModuleType) -> None:
    try:
        if hasattr(module, "register_tracker_class") and _NAME not in module.LOGGER_TYPE_TO_CLASS:
            module.register_tracker_class(__getattr__("TraceletTracker"))
    except Exception as error:  # it must not break the user's import
        swallow(f"making log_with={_NAME!r} known to Accelerate", error)


wrapt.register_post_import_hook(_offer, "accelerate.tracking")
