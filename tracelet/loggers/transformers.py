"""`TraceletCallback` for Transformers, made when it is asked for: importing this file does not import Transformers.

It makes `TrainingArguments(report_to="tracelet")` known. With a run, or under `tracelet run`, that is done by itself.
"""

from __future__ import annotations

from types import ModuleType
from typing import TYPE_CHECKING, Any, Final

import wrapt

from tracelet.guard import swallow

if TYPE_CHECKING:
    from tracelet.loggers.transformers_callback import TraceletCallback

__all__ = ["TraceletCallback"]

_NAME: Final = "tracelet"


def __getattr__(name: str) -> Any:
    if name == "TraceletCallback":
        from tracelet.loggers.transformers_callback import callback_class

        globals()[name] = callback_class(__name__)
        return globals()[name]
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def _offer(module: ModuleType) -> None:
    try:
        module.INTEGRATION_TO_CALLBACK.setdefault(_NAME, __getattr__("TraceletCallback"))
    except Exception as error:  # it must not break the user's import
        swallow(f"making report_to={_NAME!r} known to Transformers", error)


wrapt.register_post_import_hook(_offer, "transformers.integrations.integration_utils")
