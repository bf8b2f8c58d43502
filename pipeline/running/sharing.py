"""Handing out items to an executor while another run may be at work on the same store."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ...stores.leases import Leases
from ...stores.records import Store, fingerprint
from .planning import Planned
from .tasks import Status

_LOOK_EVERY_S = 0.5


@dataclass
class Sharing:
    """Gives out planned items whose lease could be taken; what another run finishes meanwhile is taken over."""

    store: Store
    leases: Leases
    force: bool
    """Whether only what was finished after `began` counts as finished by another run."""
    adopted: Callable[[Status], None]
    """Told of items that another run has finished, well or not."""
    began: float = field(init=False)
    """On the storage's clock."""

    def __post_init__(self) -> None:
        """Look at the clock."""
        self.began = self.leases.now()

    def hand_out(self, plans: Sequence[Planned], busy: list[Planned]) -> Iterator[Planned]:
        """Items that are this run's now, with their lease; those that another run is at are put into `busy`."""
        for plan in plans:
            item = plan.item
            if not self.leases.take(item.stage, item.item):
                busy.append(plan)
                continue
            status = self._finished_by_another(plan)
            if status is None:
                yield plan
                continue
            self.leases.release(item.stage, item.item)
            self.adopted(status)

    def wait(self) -> None:
        """Let the other run go on for a moment."""
        time.sleep(_LOOK_EVERY_S)

    def _finished_by_another(self, plan: Planned) -> Status | None:
        stage, item = plan.item.stage, plan.item.item
        mark = fingerprint(plan.depends)
        record = self.store.record(stage, item)
        if record is not None and record.fingerprint == mark and self._counts(stage, "records", item):
            return Status(stage, item, record.status, 0.0, warnings=tuple(record.summary.get("warnings", ())))
        failure = self.store.failure(stage, item)
        if failure is not None and failure.fingerprint == mark and self._counts(stage, "failures", item, fresh=True):
            return Status(stage, item, "failed", 0.0, f"{failure.error}: {failure.message}", error=failure.error)
        return None

    def _counts(self, stage: str, kind: str, item: str, *, fresh: bool = False) -> bool:
        if not (self.force or fresh):
            return True
        written = self.store.files.modified(self.store.path / stage / kind / f"{item}.json")
        return written is not None and written > self.began
