"""What is recorded of an ordinary optimizer: rates as they change, and now and then loss, gradient norm, and AMP's scale."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Final

from tracelet.core.metrics import MetaValue, MetricType
from tracelet.frameworks.backwards import Closure, Heard
from tracelet.frameworks.gradients import Clip, Norm, norm_of
from tracelet.frameworks.optimizer_names import group_names
from tracelet.frameworks.optimizer_settings import settings
from tracelet.frameworks.rates import Group, changed
from tracelet.frameworks.reading import Point, Reader
from tracelet.frameworks.steps import Stepping, here, is_capturing, parameters
from tracelet.frameworks.tensors import is_scalar, on_host

if TYPE_CHECKING:
    from tracelet.core.experiment import Experiment
    from tracelet.frameworks.hearing import Hearing

__all__ = ["EVERY", "Listener"]

EVERY: Final = 50
_NOTHING: Final[Mapping[str, MetaValue]] = {}


class Listener:
    """Records one optimizer in one run.

    Args:
        run: the run.
        reader: of the run's numbers.
        optimizer: gives the optimizer.
        name: gives the optimizer's name in the names of its metrics; asked for at its first step.
        hearing: whether losses and clippings are listened to.
        every: steps between two records.

    Attributes:
        optimizer: gives the optimizer; None when it is gone.
        updates: steps that the optimizer has made, those from before a checkpoint among them.
        due: the next step is recorded.
        awaited: what the hearing had counted when it became due.
        name: empty before its first step.
    """

    def __init__(
        self,
        run: Experiment,
        reader: Reader,
        optimizer: weakref.ref[Any],
        name: Callable[[Listener], str],
        hearing: Hearing,
        every: int,
    ) -> None:
        self._run = run
        self._reader = reader
        self.optimizer = optimizer
        self.inner: Stepping | None = None
        self._name_of = name
        self._hearing = hearing
        self._every = every
        self.name = ""
        self.updates = _steps_before(optimizer())
        self.due = self.updates % every == 0
        self.awaited = hearing.steps
        self._next = self.updates - self.updates % every + every
        self._seen_parameters: tuple[Any, set[int]] = (None, set())
        self._groups: list[Group] = []
        self._group_names: list[str] = []
        self._postponed = False
        self._skipped = 0
        self._loss: Any = None
        self._norm: Norm | None = None

    def begins(self, optimizer: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A step that is recorded begins: look at its gradients, or see that its closure is overheard.

        Returns:
            Arguments of `step` that go in the place of the given ones; None when they stay.
        """
        self._loss = self._norm = None
        self._postponed = False
        closure = args[1] if len(args) > 1 else kwargs.get("closure")
        if not callable(closure):
            if self._hearing.open:
                self._look(optimizer)
            else:  # nobody waited that long for it: its loss was not heard
                self._hearing.begin()
                self.awaited, self._postponed = self._hearing.steps, True
            return None

        def hear(result: Any) -> None:
            if is_scalar(result):
                self._loss = result.detach().clone()
            elif isinstance(result, int | float):
                self._loss = result
            self._look(optimizer)

        overheard = Closure(closure, hear)
        if len(args) > 1:
            return (args[0], overheard, *args[2:]), kwargs
        return args, {**kwargs, "closure": overheard}

    def ended(self, optimizer: Any) -> None:
        """A step is over."""
        self.updates = updates = self.updates + 1
        groups, known = optimizer.param_groups, self._groups
        if self.due or len(groups) != len(known):
            self._record(optimizer, groups)
        else:
            for seen in known:  # one, mostly; a function for this would take longer than what it does
                group = groups[seen.number]
                if group.get("lr") is not seen.lr or group.get("weight_decay") is not seen.weight_decay:
                    self._record(optimizer, groups)
                    break
        if updates == self._next:
            self.due, self._next, self.awaited = True, updates + self._every, self._hearing.steps
            self._hearing.begin()
        if self._hearing.open:
            self._take_loss()
            if here.clips:
                self._drop_clips(optimizer)
            self._hearing.ended()

    def _take_loss(self) -> Heard | None:
        return here.losses.taken(self) if here.since is self._hearing.since else None

    def _record(self, optimizer: Any, groups: list[dict[str, Any]]) -> None:
        points: list[Point] = []
        if len(groups) != len(self._groups):
            self._meet_groups(optimizer)
        points += changed(groups, self._groups, self._group_names, self.due, self._point)
        if self._postponed:
            self._postponed = False
        elif self.due:
            self.due = False
            self._measure(optimizer, self._take_loss(), points)
        if points:
            self._reader.read(points)

    def skipped(self, optimizer: Any) -> None:
        """A GradScaler did not let it step."""
        self._take_loss()
        self._drop_clips(optimizer)
        self._meet(optimizer)
        self._skipped += 1
        self._reader.read([self._point("skipped_steps", self._skipped, MetricType.SCALAR)])

    def parameters(self, optimizer: Any) -> set[int]:
        """The identities of its parameters."""
        lists = [group["params"] for group in optimizer.param_groups]
        key = [(len(each), id(each[0]), id(each[-1])) for each in lists if each]
        if self._seen_parameters[0] != key:
            self._seen_parameters = key, parameters(optimizer)
        return self._seen_parameters[1]

    def _point(
        self,
        name: str,
        value: Any,
        kind: MetricType,
        metadata: Mapping[str, MetaValue] = _NOTHING,
        judge: Callable[[float], float | None] | None = None,
    ) -> Point:
        return Point(f"optim/{self.name}/{name}", value, kind, self.updates, metadata, judge)

    def _look(self, optimizer: Any) -> None:
        for group in optimizer.param_groups:
            if group["params"] and is_capturing(group["params"][0]):
                return  # a graph is being recorded: what is computed now would become part of it
        clips: list[Clip] = []
        if here.clips and here.since is self._hearing.since:
            mine = self.parameters(optimizer)
            clips = [clip for clip in here.clips if not mine.isdisjoint(clip.parameters)]
        norm = norm_of(optimizer, clips)
        scale = getattr(optimizer, "grad_scale", None)
        if (
            norm is not None and scale is not None and is_scalar(scale) and not norm.clipped
        ):  # a fused one unscales itself
            divisor = on_host(scale) if isinstance(norm.value, float) else scale.to(norm.value.device)
            norm = norm._replace(value=norm.value / divisor)
        self._norm = norm

    def _drop_clips(self, optimizer: Any) -> None:
        mine = self.parameters(optimizer)
        here.clips = [clip for clip in here.clips if mine.isdisjoint(clip.parameters)]

    def _meet(self, optimizer: Any) -> None:
        if not self.name:
            self.name = self._name_of(self)
            self._run.log_params(settings(optimizer, f"optim/{self.name}"))

    def _meet_groups(self, optimizer: Any) -> None:
        self._meet(optimizer)
        groups = optimizer.param_groups
        known = self._groups[: len(groups)]
        self._groups = known + [Group(number) for number in range(len(known), len(groups))]
        self._group_names = group_names(groups)

    def _measure(self, optimizer: Any, heard: Heard | None, points: list[Point]) -> None:
        loss, norm = self._loss, self._norm
        self._loss = self._norm = None
        if loss is None and heard is not None:
            said: dict[str, MetaValue] = {"backward_calls": heard.calls} if heard.calls > 1 else {}
            value = heard.value if heard.scale is None else heard.value / heard.scale.to(heard.value.device)
            points.append(self._point("loss", value, MetricType.LOSS, metadata=said))
        elif loss is not None:
            points.append(self._point("loss", loss, MetricType.LOSS))
        if norm is not None:
            # Not said when it is false: metadata makes a record seven times as long.
            said = {"clipped": True} if norm.clipped else {}
            if norm.norm_type != 2:
                said["norm_type"] = norm.norm_type
            points.append(self._point("grad_norm", norm.value, MetricType.GRADIENT, metadata=said))
        if here.scaler is not None and is_scalar(scale := getattr(here.scaler, "_scale", None)):
            points.append(self._point("amp_scale", scale, MetricType.SCALAR))
            if getattr(optimizer, "_step_supports_amp_scaling", False):
                self._ask_for_skipped(optimizer, points)

    def _ask_for_skipped(self, optimizer: Any, points: list[Point]) -> None:
        """A fused optimizer skips on the device. Where it counts its steps there, what is missing was skipped."""
        count, attempts = _own_count(optimizer), self.updates
        if not is_scalar(count):
            return

        def judge(steps: float) -> float | None:
            if (missing := attempts - int(steps)) <= self._skipped:
                return None
            self._skipped = missing
            return float(missing)

        points.append(self._point("skipped_steps", count.detach(), MetricType.SCALAR, judge=judge))


def _own_count(optimizer: Any) -> Any:
    """How many steps an optimizer has made, as it keeps that itself: of the first parameter that has a count."""
    for number, state in enumerate(optimizer.state.values()):
        if isinstance(state, Mapping) and "step" in state:
            return state["step"]
        if number == 10:
            break
    groups = optimizer.param_groups
    count, first = groups[0].get("step") if groups else None, optimizer.defaults.get("step")
    return count - first if isinstance(count, int) and isinstance(first, int) else count  # some begin to count at 1


def _steps_before(optimizer: Any) -> int:
    try:
        count = _own_count(optimizer)
    except (AttributeError, TypeError):  # a state of its own kind
        return 0
    if is_scalar(count):
        # On a device this waits for it, once: for an optimizer that comes from a checkpoint and counts there.
        count = on_host(count) if count.is_cpu else count.item()
    return int(count) if isinstance(count, int | float) and 0 <= count < 2**62 else 0
