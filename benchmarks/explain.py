"""Do explanations find what was planted? Hot spots in slides and lesions in loose boxes, of patients held out."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd

from mumo.commands.explain.lesions import backbone_of_run, lesion_maps
from mumo.commands.terminal import progress_bars
from mumo.config import Settings, load_settings
from mumo.fusion.attribution import Probe, unit_parts
from mumo.fusion.deletion import randomised
from mumo.fusion.explain import Explainer
from mumo.fusion.explained import checks_as_json, sentences
from mumo.fusion.train import fit
from mumo.pipeline.cohorts.cohort import load_cohort
from mumo.pipeline.extract import Choice, extract
from mumo.pipeline.running.execute import make_executor
from mumo.pipeline.synthetic.cohort import write_cohort
from mumo.pipeline.synthetic.plan import plan_cohort
from mumo.pipeline.synthetic.spots import centre_of_mass, lesion_in_crop, shares_in_spot
from mumo.stores.records import Store
from mumo.stores.specs import BAGS, LESIONS
from mumo.stores.tables import read_rows

PATIENTS, SEED = 80, 0
TOP_SHARE = 0.1
STAGES = ("tiles", "windows", "rois", "embed", "clinical")


@dataclass
class Found:
    """Held-out patients with the signal: whether it was found."""

    bags: list[int] = field(default_factory=list)
    hits: dict[str, list[bool]] = field(default_factory=dict)
    """Map → whether its top 10 % of bags hold the bag that lies most in the hot spot."""
    chance: list[float] = field(default_factory=list)
    in_lesion: dict[str, list[bool]] = field(default_factory=dict)
    """Way to take the map → whether its centre of mass lies in the planted lesion."""
    areas: list[float] = field(default_factory=list)
    """Share of the crop that the lesion takes."""

    def add(self, name: str, values: np.ndarray, target: int) -> None:
        """Whether the highest values hold the target."""
        top = np.argsort(-values, kind="stable")[: int(np.ceil(TOP_SHARE * len(values)))]
        self.hits.setdefault(name, []).append(target in top)


def make(folder: Path, patients: int = PATIENTS, workers: int = 2) -> Settings:
    """Cohort and store in `folder`; returns the settings."""
    made = write_cohort(folder / "cohort", patients=patients, seed=SEED, hot_spots=True)
    settings = load_settings(made.settings_file)
    cohort = load_cohort(made.cohort_file, None, settings.clinical)
    with make_executor(workers, None, settings) as executor, progress_bars() as bars:
        extract(cohort, Store.create(folder / "store"), settings, Choice(STAGES), executor, bars)
    return settings


def fit_alone(folder: Path, settings: Settings, modality: str) -> float:
    """Train `folder`/`modality`, which reads that modality alone; returns the AUC of held-out patients."""
    alone = settings.model_copy(update={"model": settings.model.model_copy(update={"modalities": (modality,)})})
    metrics = fit(folder / "store", folder / modality, alone, device="cpu", force=True)
    value: float = metrics["parts"]["test"]["auc"]["value"]
    return value


def judge_slides(folder: Path) -> Found:
    """Whether maps of held-out patients who look like responders hold the hot spot."""
    store, explainer = Store.open(folder / "store"), Explainer(folder / "pathology", folder / "store", device="cpu")
    spots = pd.read_csv(folder / "cohort" / "hot_spots.csv").set_index("patient")
    found = Found()
    (member,) = explainer.members
    others = [randomised(member.run.layout, member.run.settings, seed) for seed in range(5)]
    for patient in spots.index:
        if explainer.part(patient) != "test":
            continue
        spot = spots.loc[patient]
        rows = read_rows(store.part("tiles", f"slide-{spot.slide}", "bags.parquet"), BAGS)
        target = int(shares_in_spot(rows, spot.x_um, spot.y_um, spot.radius_um, 1.0).argmax())
        found.bags.append(len(rows))
        found.chance.append(np.ceil(TOP_SHARE * len(rows)) / len(rows))
        bags = explainer.explain(patient).units["pathology"]
        found.add("weight", bags.weight, target)
        found.add("|effect|", np.abs(bags.effect), target)
        batch = member.dataset.whole(np.array([explainer.packed.patients.index(patient)]))
        for other in others:
            parts = unit_parts(Probe(other, batch), "pathology")
            found.add("weight, random models", parts.weight, target)
            found.add("|effect|, random models", np.abs(parts.effect), target)
    return found


def judge_lesions(folder: Path, settings: Settings, patients: int = PATIENTS) -> Found:
    """Whether Grad-CAM's centre of mass lies in the lesion."""
    store, explainer = Store.open(folder / "store"), Explainer(folder / "radiology", folder / "store", device="cpu")
    plan = plan_cohort(patients, SEED, signal=True, hot_spots=True)
    looks = {person.patient: person.appearance for person in plan.patients}
    backbone, average = backbone_of_run(explainer, store, settings, "cpu"), explainer.average_lesion()
    found = Found()
    for study in plan.ct:
        if explainer.part(study.patient) != "test" or not looks[study.patient]:
            continue
        (lesion,) = lesion_maps(store, explainer.explain(study.patient), backbone, average)
        (row,) = read_rows(store.part("rois", lesion.item, "lesions.parquet"), LESIONS)
        inside = lesion_in_crop(study, SEED, 1, row, settings.rois)
        found.areas.append(float(inside.mean()))
        ways = {
            "lowers the risk": (-lesion.cam).clip(min=0),
            "raises the risk": lesion.cam.clip(min=0),
            "either": np.abs(lesion.cam),
        }
        for name, values in ways.items():
            at = centre_of_mass(values, inside.shape) if values.any() else (0, 0)
            found.in_lesion.setdefault(name, []).append(bool(inside[at]))
        middle = inside[inside.shape[0] // 2, inside.shape[1] // 2]
        found.in_lesion.setdefault("the middle of the crop, for comparison", []).append(bool(middle))
    return found


def main() -> None:
    """Print the figures."""
    with tempfile.TemporaryDirectory() as temporary:
        folder, began = Path(temporary), time.perf_counter()
        settings = make(folder)
        print(f"explain: slides alone, AUC of held-out patients {fit_alone(folder, settings, 'pathology'):.3f}")
        found = judge_slides(folder)
        print(f"  {len(found.bags)} held-out patients with the signal, {np.mean(found.bags):.0f} bags each")
        for name, hits in found.hits.items():
            chance = np.mean(found.chance)
            print(f"  hot spot in the top 10 % of bags by {name}: {np.mean(hits):.2f} (chance {chance:.2f})")
        for line in sentences(checks_as_json(Explainer(folder / "pathology", folder / "store", device="cpu").check())):
            print(f"  {line}")
        print(f"explain: CT alone, AUC of held-out patients {fit_alone(folder, settings, 'radiology'):.3f}")
        lesions = judge_lesions(folder, settings)
        print(f"  Grad-CAM's centre of mass in the lesion, which takes {np.mean(lesions.areas):.2f} of the crop:")
        for name, hits in lesions.in_lesion.items():
            print(f"    {name}: {np.mean(hits):.2f} of {len(hits)} patients")
        print(f"  all {time.perf_counter() - began:.0f} s")
