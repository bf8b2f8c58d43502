"""What a stage is: `plan` what there is to do, `run` one item, `finalise` what needs all of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

if TYPE_CHECKING:
    from ..config import Settings
    from ..errors import Problem
    from ..stores.records import Store
    from .cohorts.cohort import Cohort


@dataclass(frozen=True)
class Source:
    """A file or folder that an item is computed from. Its content enters the fingerprint, its path does not."""

    role: str
    """What the file is for the item: `slide`, `annotation`, `volume`, `mask`, ..."""
    path: Path
    full: bool = False
    """Whether all of it is hashed (small files), or its size and its first, middle and last MiB."""


@dataclass(frozen=True)
class Upstream:
    """A part of another item that an item reads. The digest of its content enters the fingerprint."""

    stage: str
    item: str
    part: str

    def __str__(self) -> str:
        return f"{self.stage}/{self.item}/{self.part}"


@dataclass(frozen=True)
class Item:
    """One unit of work: small, and picklable, for it travels to workers. Pixels never do."""

    stage: str
    item: str
    """Id, unique within the stage and safe as a file name: `slide-S1`, `ct-C1`, `cohort`."""
    payload: Any
    """What `run` needs to know: paths, and what the cohort file says of the item."""
    settings: Mapping[str, Any]
    """The settings that the result depends on, JSON-able: usually the section of the stage."""
    inputs: Mapping[str, Any] = field(default_factory=dict)
    """What the cohort file says and the result depends on, JSON-able, without paths: resolution, lesion types."""
    sources: tuple[Source, ...] = ()
    upstream: tuple[Upstream, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What `run` says of an item that it has written."""

    status: Literal["ok", "empty"] = "ok"
    """`empty`: there was nothing to compute, for example a slide without tissue."""
    summary: dict[str, Any] = field(default_factory=dict)
    """Small JSON-able facts for reports: counts, `warnings` (a list of sentences), the weights' digest."""


class Stage(ABC):
    """A stage of the pipeline. Instances hold no state."""

    name: ClassVar[str]
    version: ClassVar[int]
    """Raised when results change for the same input; part of every fingerprint."""

    @abstractmethod
    def plan(self, cohort: Cohort, settings: Settings, store: Store) -> list[Item]:
        """Every item of the stage for this cohort, done or not."""

    @abstractmethod
    def run(self, item: Item, settings: Settings, store: Store, out: Path) -> Outcome:
        """Compute one item and write its parts into the empty folder `out`.

        Raises:
            InputError: the item's sources cannot be used. Any error fails this item alone.
        """

    def check(self, cohort: Cohort, settings: Settings) -> list[Problem]:
        """What can be known to be wrong with the sources before anything runs; reads headers, writes nothing."""
        return []

    def prepare(self, cohort: Cohort, settings: Settings, store: Store | None) -> None:
        """Fetch what all items need from elsewhere; nothing runs where that fails. `store` is None where there is none.

        Raises:
            InputError: it is not there and cannot be fetched.
        """
        return

    def finalise(self, cohort: Cohort, settings: Settings, store: Store) -> list[Item]:
        """Items that can be planned only once the others are done (reductions); run like them."""
        return []
