"""`mumo robustness`: the cohort as other annotators might have drawn it, through the pipeline and a finished model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ..config import Settings
from ..errors import ConfigError
from ..fusion.robustness import AS_DRAWN, assess
from ..pipeline.annotators import STAGES, seed_store, vary_cohort
from ..pipeline.cohorts.cohort import Cohort
from ..pipeline.cohorts.variation import Variation
from ..pipeline.extract import Choice, StageReport, extract, plan_extract
from ..pipeline.running.execute import Executor
from ..stores import specs
from ..stores.places import Place
from ..stores.records import Store
from .terminal import progress_bars


def run_robustness(
    cohort: Cohort,
    store: Place,
    run: Path,
    out: Path,
    settings: Settings,
    executor: Executor,
    *,
    sets: int,
    seed: int,
    share: float,
    device: str,
    tables: dict[str, Path],
) -> tuple[dict[str, Any], list[StageReport]]:
    """Extract what each annotator's outlines and boxes touch, to OUT/annotator-N, and set the predictions together.

    Returns:
        What `fusion.robustness.assess` found, and the reports of all extractions.

    Raises:
        ConfigError: the store lacks items of the cohort or has stale ones; nothing to move; OUT cannot be used.
    """
    plan = plan_extract(cohort, Store.open(store), settings, Choice(specs.STAGES))
    behind = [p for p in plan if p.state in ("new", "stale", "waiting")]
    if behind:
        first = f"{behind[0].item.stage}/{behind[0].item.item}"
        raise ConfigError(f"{store}: {len(behind)} items are not up to date, {first} first; run `mumo extract all`")
    stores: dict[str, Place] = {AS_DRAWN: store}
    reports: list[StageReport] = []
    touched: frozenset[str] = frozenset()
    out.mkdir(parents=True, exist_ok=True)
    for number in range(1, sets + 1):
        variation = Variation(seed, number, share)
        varied = vary_cohort(cohort, variation, settings.rois)
        if not varied.patients:
            raise ConfigError("no slide has outlines and no lesion a box: there is nothing to move")
        name = f"annotator-{number}"
        found = seed_store(store, out / name, variation)
        with progress_bars() as bars:
            reports += extract(varied.cohort, found, settings, Choice(STAGES), executor, bars)
        stores[name] = found.path
        touched |= varied.patients
    facts = {
        "seed": seed,
        "share": share,
        "slides_moved": varied.slides,
        "lesions_moved": varied.lesions,
        "left_as_drawn": varied.left,
    }
    return assess(run, stores, touched=touched, facts=facts, device=device, tables=tables), reports
