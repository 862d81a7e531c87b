"""formed: what its trainers log, and a run for each step of a workflow that records something."""

from __future__ import annotations

import importlib
import sys
import weakref
from types import ModuleType
from typing import Any, ClassVar, Final

from tracelet.frameworks import formed_trainer
from tracelet.frameworks.base import Framework
from tracelet.frameworks.places import Place
from tracelet.guard import swallow
from tracelet.nested import formed_steps

__all__ = ["FormedFramework"]

_TORCH: Final = "formed.integrations.torch"
# What they register is there under its name when a run listens, whether formed.yml names them or not.
_REGISTERED: Final = ("tracelet.loggers.formed", "tracelet.optim.formed")


class FormedFramework(Framework):
    """formed, in a run.

    Attributes:
        named: callbacks that a script named itself: while there is one, the patches stay, as it may start a run.
    """

    identifier = "formed"
    module = "formed.workflow"  # which all of formed needs
    package = "formed"
    since: ClassVar[tuple[int, ...]] = (0, 0, 13)
    before: ClassVar[tuple[int, ...]] = (0, 1)
    named: ClassVar[weakref.WeakSet[Any]] = weakref.WeakSet()
    _awaits_torch: ClassVar[bool] = False

    @classmethod
    def places(cls) -> list[Place]:
        """Where formed is listened to."""
        return [*formed_trainer.places(cls), *formed_steps.places(cls)]

    @classmethod
    def install(cls) -> None:
        """Patch formed; what is not imported yet, when it is."""
        if not cls._awaits_torch and sys.modules.get(_TORCH) is None:
            import wrapt

            cls._awaits_torch = True
            wrapt.register_post_import_hook(cls._register, _TORCH)
        super().install()

    @classmethod
    def patch(cls, module: ModuleType) -> None:
        """Patch what there is, and register what a configuration may name."""
        super().patch(module)
        torch = sys.modules.get(_TORCH)
        # In the middle of its import, which needs the workflows, it has no callbacks yet: it is awaited.
        if torch is not None and not getattr(torch.__spec__, "_initializing", False):
            cls._register()

    @classmethod
    def uninstall(cls) -> None:
        """Take the patches off, where no callback needs them."""
        if not cls.named:
            super().uninstall()

    @classmethod
    def _register(cls, _: ModuleType | None = None) -> None:
        if cls._wanted:
            for name in _REGISTERED:
                try:
                    importlib.import_module(name)
                except Exception as error:  # it must not break the user's import
                    swallow(f"registering {name}", error)
