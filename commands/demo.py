"""`mumo demo`: a small synthetic cohort through everything, in one go."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ..config import load_settings
from ..errors import ConfigError
from ..fusion.explained import FOLDER as EXPLAINED
from ..fusion.report import write_report
from ..fusion.train import fit
from ..pipeline.cohorts.cohort import load_cohort
from ..pipeline.extract import Choice, StageReport, extract
from ..pipeline.running.execute import make_executor
from ..pipeline.synthetic.cohort import write_cohort
from ..stores.records import Store
from ..stores.specs import STAGES
from .explain.command import Options, write_explanations
from .terminal import epoch_bar, format_interval, item_bar, progress_bars


@dataclass(frozen=True)
class DemoResult:
    """What the demo came to."""

    stages: list[StageReport]
    auc: str
    """AUC with its interval, or why it is undefined."""
    held_out: int
    """Number of held-out patients with a known label."""
    report: Path
    explanations: Path
    """The page of the held-out patients."""


def run_demo(folder: Path, *, patients: int, seed: int, signal: bool, workers: int) -> DemoResult:
    """Make the cohort in `folder`/cohort, extract to `folder`/store, fit, explain held-out patients, and report in
    `folder`/run.

    Raises:
        ConfigError: the folder exists and is not empty.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: is not empty; choose a folder that does not exist yet")
    with item_bar("cohort") as bar:
        made = write_cohort(folder / "cohort", patients=patients, seed=seed, signal=signal, progress=bar)
    settings = load_settings(made.settings_file)
    cohort = load_cohort(made.cohort_file, None, settings.clinical)
    store = Store.create(folder / "store")
    with make_executor(workers, None, settings) as executor, progress_bars() as bars:
        stages = extract(cohort, store, settings, Choice(STAGES), executor, bars)
    with epoch_bar() as epochs:
        metrics = fit(store.path, folder / "run", settings, progress=epochs)
    explained = folder / "run" / EXPLAINED
    with item_bar("explain") as bar:
        options = Options(held_out=True, workers=workers)
        write_explanations(folder / "run", store.path, explained, settings, options, progress=bar)
    report = write_report(folder / "run")
    held_out = metrics["parts"]["test"]
    return DemoResult(stages, format_interval(held_out["auc"]), held_out["labelled"], report, explained / "index.html")
