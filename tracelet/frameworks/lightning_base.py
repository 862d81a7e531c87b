"""What both packages of Lightning have in common: where their calls are seen, and whose they are."""

from __future__ import annotations

import sys
import weakref
from collections.abc import Mapping
from types import ModuleType
from typing import TYPE_CHECKING, Any, ClassVar

from tracelet.core.active import current
from tracelet.frameworks.base import Framework
from tracelet.frameworks.once import Recent
from tracelet.frameworks.places import Place

if TYPE_CHECKING:
    from tracelet.core.options import Options

__all__ = ["LightningBase", "lightning_rank"]


def lightning_rank() -> int:
    """The rank that Lightning says this process has: of a process that it forked, the run does not know."""
    ranks = sys.modules.get("lightning_utilities.core.rank_zero")
    return 0 if ranks is None else getattr(ranks.rank_zero_only, "rank", None) or 0


class LightningBase(Framework):
    """A package of Lightning, in a run.

    Args:
        capture: record what modules log.
        artifacts: files that become artifacts: "checkpoints", "exports", "profiles".
        resumes: checkpoints name the run, and a training that goes on from one goes on with it.

    Attributes:
        resumes: likewise.
        artifacts: those that are kept.
        recent: what the script gave to loggers by itself.
        met: classes of loggers that are patched.
        beside: the loggers of the Trainer that was met last.
        explicit: there is, or was, a logger of our own: what its Trainer logs is recorded, captured or not.
    """

    since: ClassVar[tuple[int, ...]] = (2, 2)
    before: ClassVar[tuple[int, ...]] = (3,)
    settings: ClassVar[str] = "lightning"
    met: ClassVar[set[type]]
    beside: ClassVar[tuple[weakref.ref[Any], ...]]
    explicit: ClassVar[bool] = False
    _files_wanted: ClassVar[bool] = False
    _resumes_wanted: ClassVar[bool] = False

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.met, cls.beside = set(), ()

    def __init__(self, capture: bool = True, artifacts: tuple[str, ...] = (), resumes: bool = False) -> None:
        super().__init__(captures=capture or bool(artifacts) or resumes)
        self.resumes = resumes
        self.capture = capture
        self.artifacts = frozenset(artifacts)
        self.recent = Recent()

    @classmethod
    def arguments(cls, options: Options) -> Mapping[str, Any]:
        """What a run's settings say about Lightning."""
        return {
            "capture": options.lightning.capture,
            "artifacts": options.capture_artifacts,
            "resumes": options.resume == "checkpoint",
        }

    @classmethod
    def switched_off(cls, options: Options) -> list[str]:
        """The setting that switches the capture off, if it does."""
        return [] if options.lightning.capture else ["lightning.capture"]

    def start_tracking(self) -> None:
        """Record the library's calls; see `Framework.start_tracking`."""
        if self.artifacts:
            type(self)._files_wanted = True
        if self.resumes:
            type(self)._resumes_wanted = True
        super().start_tracking()

    @classmethod
    def here(cls) -> LightningBase | None:
        """The framework of the run that a record made here and now belongs to; None when that records nothing of Lightning."""
        framework = cls.of_run()
        return framework if framework is not None and framework.tracking else None

    @classmethod
    def capturing(cls) -> LightningBase | None:
        """The same; None also when only files are kept."""
        framework = cls.of_run()
        return framework if framework is not None and framework.tracking and framework.capture else None

    @classmethod
    def of_run(cls) -> LightningBase | None:
        """The framework of that run, whether it tracks or not; None in a process whose points do not count."""
        run = current()
        if run is None or not run.active:
            return None
        framework = run._frameworks.get(cls.identifier)
        if not isinstance(framework, LightningBase):
            return None
        return None if lightning_rank() and not run.plan.rank_label else framework

    @classmethod
    def places(cls) -> list[Place]:
        """Where Lightning is listened to."""
        from tracelet.frameworks import (
            lightning_checkpoints,
            lightning_events,
            lightning_files,
            lightning_media,
            lightning_metrics,
            lightning_params,
            lightning_trainer,
        )

        parts = [lightning_metrics, lightning_params, lightning_trainer, lightning_media, lightning_events]
        if cls._resumes_wanted:
            parts.append(lightning_checkpoints)
        if cls._files_wanted:
            parts.append(lightning_files)
        return [place for part in parts for place in part.places(cls)]

    @classmethod
    def patch(cls, module: ModuleType) -> None:
        """Patch what there is; what is patched already stays so."""
        from tracelet.frameworks import lightning_metrics

        super().patch(module)
        lightning_metrics.meet_loggers_of(cls)

    @classmethod
    def unpatch(cls) -> None:
        """Take the patches off; when they are not on, do nothing."""
        cls._files_wanted = cls._resumes_wanted = False
        super().unpatch()
        cls.met.clear()
        cls.beside = ()
