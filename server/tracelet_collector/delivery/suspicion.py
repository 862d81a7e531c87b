"""Records that may be the end of workers: found one by one, and set aside only when it is proven.

Three workers in a row that died, hung or broke over the same part of the log raise the suspicion. Then:

1. The part is halved, batch by batch. What passes is delivered for good; what fails is halved again, down to one batch.
2. Of its records the first few are tried, more or fewer, until the shortest row that fails is known: its last record is the
   suspect. Every such try begins from what is committed, and is committed never.
3. Proof. The suspect is no suspect when nothing passes without it: a tracker that hangs, a machine without memory or a broken
   package fail over anything. So other records must pass now, and then the row must fail a second time.
4. The batch is delivered without the suspect, which is set aside when that goes well; else another one of it is sought.

Where a worker fails with no records at all, or with any, no record is to blame: the chunk is tried now and then, as it is.

The part is known by its place in the log. A backend that begins from the first record again, with each new worker, finds it
there again.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Final

from tracelet_collector.log.base import Chunk

__all__ = ["Suspicion", "Tried", "Try", "cut"]

_RAISED: Final = 3  # failures over the same records, in a row
_OTHERS: Final = 12  # of which one must pass
_RARER: Final = (1, 4, 16, 64)  # so many times more of them, after searches that found nothing


@dataclass(frozen=True, slots=True)
class Try:
    """What to deliver of a chunk.

    Attributes:
        until: lsn behind which the chunk is cut; 0: nowhere.
        part: of its records (without those set aside) the first that is given to the tracker, and the one before which it
            ends; what comes of it is not committed. None: all, and it is.
    """

    until: int = 0
    part: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True)
class Tried:
    """What a worker says of a try that is not committed, and went well.

    Attributes:
        total: records of the chunk, without those set aside.
        following: lsn and position of the first one behind those that were tried.
    """

    total: int
    following: tuple[int, int] | None


def cut(chunk: Chunk, until: int) -> Chunk:
    """The part of a chunk up to an lsn that it has."""
    if not until or until >= chunk.until:
        return chunk
    batches = [batch for batch in chunk.batches if batch.lsn <= until]
    return replace(
        chunk, until=batches[-1].lsn, points=sum(batch.points for batch in batches), batches=batches, more=True
    )


class Suspicion:
    """What is known of the part of the log that a worker failed over.

    Args:
        chunk: the first that it failed over.

    Attributes:
        failures: in a row over it.
        waits: the next try is of no use before there are more records, or a while has passed.
        suspects: records, by lsn and position, without which the chunk is to go, and how often they failed.
    """

    def __init__(self, chunk: Chunk) -> None:
        self.failures = 0
        self.waits = False
        self.suspects: dict[tuple[int, int], int] = {}
        self._after, self._until = chunk.after, chunk.until
        self._searches = 0  # that found nothing
        self._begin()

    def _begin(self) -> None:
        self._alone = False  # one batch is left, and failed alone
        self._without = False  # a suspect is proven: the batch goes without it
        self._forget_records()

    def _forget_records(self) -> None:
        self._passes = -1  # so many records pass
        self._fails = 0  # so many do not; 0: all of them, however many
        self._total = 0
        self._suspect: tuple[int, int] | None = None
        self._others = 0  # single records that were tried without the suspect, and failed
        self._passed = False  # something passed, since the shortest row that fails did

    @property
    def searching(self) -> bool:
        """It has failed so often that the records are looked at."""
        return self.failures >= _RAISED * _RARER[min(self._searches, len(_RARER) - 1)]

    @property
    def young(self) -> bool:
        """No search was made yet, nor is one under way."""
        return not self._searches and not self.searching

    @property
    def vain(self) -> bool:
        """A search found that no record is the cause."""
        return self._searches > 0 and not self.searching

    def __str__(self) -> str:
        """Behind the worker's last words: what is thought of it."""
        times = f", {self.failures} times in a row over the same records"
        if self.searching:
            return f"{times}: looking for the one that is the cause"
        if self.vain:
            return ": its records are not the cause, as the worker fails over any. They are kept, and tried again now and then"
        return ""

    def plan(self, chunk: Chunk, filters: bool) -> Try:
        """What to do with what the log has now.

        Args:
            chunk: what comes after the cursor.
            filters: the worker can try some of a chunk's records; those of older versions cannot.
        """
        self.waits = False
        if not self.searching:
            return Try()
        if chunk.after < self._after:  # the backend began anew
            return Try(until=self._after)
        inside = [batch.lsn for batch in chunk.batches if batch.lsn <= self._until]
        if inside and (self._without or not self._alone):
            return Try(until=inside[max(len(inside) // 2, 1) - 1])
        if not filters:
            self.waits = True
            return Try(until=inside[0] if inside else 0)
        if self._passes < 0:
            return Try(part=(0, 0))
        fails = self._fails or self._total
        if fails - self._passes > 1:
            return Try(part=(0, (self._passes + fails) // 2))
        if self._passed:
            return Try(part=(0, fails))
        if self._passes:
            return Try(part=(0, self._passes))
        if self._total == fails:  # it is the only one: what tells it from a tracker that takes nothing?
            self.waits = True
            return Try(until=inside[0] if inside else 0)
        other = self._total - 1 - self._others * (self._total - fails) // self._most_others(fails)
        return Try(part=(other, other + 1))

    def _most_others(self, fails: int) -> int:
        return min(self._total - fails, _OTHERS)

    def failed(self, done: Try, chunk: Chunk) -> None:
        """A worker died, hung or broke.

        Args:
            done: what `plan` said, or a try as it always is.
            chunk: what it was given.
        """
        if not self.searching or chunk.until <= self._after or chunk.after >= self._until:
            self._narrow(chunk)
            return
        self.failures += 1
        if done.part is None:
            self._until = min(self._until, chunk.until)
            self._alone = len([batch for batch in chunk.batches if batch.lsn > self._after]) == 1
            self._without = False
            self._forget_records()
            return
        start, stop = done.part
        if stop == 0:
            self._give_up()
        elif start:
            self._others += 1
            if self._others >= self._most_others(self._fails or self._total):
                self._give_up()
        elif stop == self._fails and self._suspect is not None:
            if self._passed:
                self.suspects[self._suspect] = self.failures
                self._without = True
                self._forget_records()
        else:
            self._fails = stop
            self._passed = False

    def passed(self, done: Try, tried: Tried) -> None:
        """A try that is not committed went well.

        Args:
            done: the try.
            tried: what the worker says.
        """
        start, stop = done.part or (0, 0)
        self._total = tried.total
        self._passed = self._passed or stop > start
        if start:
            return
        if stop >= tried.total or stop == self._fails > 0:
            self._give_up()  # all pass, or the row that failed does: it was chance
        elif stop >= self._passes:
            self._passes, self._suspect = stop, tried.following

    def committed(self, chunk: Chunk) -> bool:
        """A chunk went well, for good.

        Returns:
            Whether nothing is left of the suspicion.
        """
        self._after = max(self._after, min(chunk.until, self._until))
        return self._after >= self._until

    def _narrow(self, chunk: Chunk) -> None:
        """Whatever it is, it is in both parts; when they have nothing in common, it is something else."""
        if chunk.until <= self._after or chunk.after >= self._until:
            self.failures, self._searches = 0, 0
            self._after, self._until = chunk.after, chunk.until
            self._begin()
        else:
            self._after, self._until = max(self._after, chunk.after), min(self._until, chunk.until)
        self.failures += 1

    def _give_up(self) -> None:
        self.failures = 0
        self.suspects.clear()
        self._searches += 1
        self._begin()
