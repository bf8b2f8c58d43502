"""Do explanations find what was planted? Hot spots in slides and lesions in loose boxes, of patients held out."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from mumo.commands.explain.lesions import LesionMap, backbone_of_run, lesion_maps
from mumo.commands.terminal import progress_bars
from mumo.config import Settings, load_settings
from mumo.fusion.attribution import Probe, Target, unit_parts
from mumo.fusion.deletion import randomised
from mumo.fusion.explain import Explainer
from mumo.fusion.explained import WORDING, checks_as_json, sentences
from mumo.fusion.train import fit
from mumo.pipeline.cohorts.cohort import load_cohort
from mumo.pipeline.extract import Choice, extract
from mumo.pipeline.running.execute import make_executor
from mumo.pipeline.synthetic.cohort import write_cohort
from mumo.pipeline.synthetic.plan import ImagingSource, plan_cohort
from mumo.pipeline.synthetic.spots import centre_of_mass, lesion_in_crop, shares_in_spot
from mumo.stores.records import Store
from mumo.stores.specs import BAGS, LESIONS
from mumo.stores.tables import read_rows

from .backbone import EPOCHS, OTHER_PATIENTS, OTHER_SEED, lesion_images, word_images, write_trained_backbone

PATIENTS, SEED = 160, 0
TOP_SHARE = 0.1
FIT_SEEDS = (0, 1, 2)
"""Of the model; the split stays."""
STAGES: Mapping[ImagingSource, tuple[str, ...]] = {
    "slides": ("tiles", "embed", "clinical"),
    "ct": ("windows", "rois", "embed", "clinical"),
}
MODALITY: Mapping[ImagingSource, str] = {"slides": "pathology", "ct": "radiology"}
RAISES = "raises the output"


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


def make(folder: Path, source: ImagingSource, patients: int = PATIENTS) -> Settings:
    """`folder`/cohort, whose signal is in slides or CT; returns settings of a model that reads these alone."""
    made = write_cohort(folder / "cohort", patients=patients, seed=SEED, hot_spots=(source,))
    settings = load_settings(made.settings_file)
    return settings.model_copy(update={"model": settings.model.model_copy(update={"modalities": (MODALITY[source],)})})


def train_backbone(folder: Path, settings: Settings, source: ImagingSource) -> Settings:
    """Settings with the weights of a backbone that was trained on images of other patients."""
    patients, file = OTHER_PATIENTS[source], folder / "trained.safetensors"
    if source == "slides":
        images, labels = word_images(patients, OTHER_SEED, settings.tiles)
    else:
        images, labels = lesion_images(patients, OTHER_SEED, settings.rois)
    write_trained_backbone(file, images, labels, EPOCHS[source])
    return settings.model_copy(update={"embed": settings.embed.model_copy(update={"weights": str(file)})})


def fill(folder: Path, settings: Settings, source: ImagingSource, workers: int = 2) -> None:
    """`folder`/store; what is there with other weights is embedded anew."""
    cohort = load_cohort(folder / "cohort" / "cohort.toml", None, settings.clinical)
    place = folder / "store"
    store = Store.open(place) if place.exists() else Store.create(place)
    with make_executor(workers, None, settings) as executor, progress_bars() as bars:
        extract(cohort, store, settings, Choice(STAGES[source]), executor, bars)


def train(folder: Path, settings: Settings, seed: int = 0) -> float:
    """`folder`/run anew; returns the AUC of held-out patients."""
    seeded = settings.model_copy(update={"fit": settings.fit.model_copy(update={"seed": seed})})
    metrics = fit(folder / "store", folder / "run", seeded, device="cpu", force=True)
    value: float = metrics["parts"]["test"]["auc"]["value"]
    return value


def explainer_of(folder: Path, target: Target) -> Explainer:
    """Of the run of a store."""
    return Explainer(folder / "run", folder / "store", device="cpu", target=target)


def judge_slides(folder: Path, target: Target) -> Found:
    """Whether maps of held-out patients who look like responders hold the hot spot."""
    store, explainer = Store.open(folder / "store"), explainer_of(folder, target)
    spots = pd.read_csv(folder / "cohort" / "hot_spots.csv").set_index("patient")
    found = Found()
    (member,) = explainer.members
    others = [randomised(member.run.layout, member.run.settings, seed) for seed in range(5)]
    for patient in spots.index:
        if explainer.part(patient) != "test":
            continue
        spot = spots.loc[patient]
        rows = read_rows(store.part("tiles", f"slide-{spot.slide}", "bags.parquet"), BAGS)
        place = int(shares_in_spot(rows, spot.x_um, spot.y_um, spot.radius_um, 1.0).argmax())
        found.bags.append(len(rows))
        found.chance.append(np.ceil(TOP_SHARE * len(rows)) / len(rows))
        bags = explainer.explain(patient).units["pathology"]
        found.add("weight", bags.weight, place)
        found.add("|effect|", np.abs(bags.effect), place)
        batch = member.dataset.whole(np.array([explainer.packed.patients.index(patient)]))
        for other in others:
            parts = unit_parts(Probe(other, batch, target), "pathology")
            found.add("weight, random models", parts.weight, place)
            found.add("|effect|, random models", np.abs(parts.effect), place)
    return found


def judge_lesions(folder: Path, settings: Settings, target: Target, patients: int = PATIENTS) -> Found:
    """Whether Grad-CAM's centre of mass lies in the lesion."""
    store, explainer = Store.open(folder / "store"), explainer_of(folder, target)
    plan = plan_cohort(patients, SEED, signal=True, hot_spots=("ct",))
    looks = {person.patient: person.appearance for person in plan.patients}
    backbone, average = backbone_of_run(explainer, store, settings, "cpu"), explainer.average_lesion
    found = Found()
    for study in plan.ct:
        if explainer.part(study.patient) != "test" or not looks[study.patient]:
            continue
        (lesion,) = lesion_maps(store, explainer.explain(study.patient), backbone, average)
        (row,) = read_rows(store.part("rois", lesion.item, "lesions.parquet"), LESIONS)
        inside = lesion_in_crop(study, SEED, 1, row, settings.rois)
        found.areas.append(float(inside.mean()))
        for name, at in _centres(lesion, inside.shape).items():
            found.in_lesion.setdefault(name, []).append(bool(inside[at]))
    return found


def _centres(lesion: LesionMap, shape: tuple[int, int]) -> dict[str, tuple[int, int]]:
    """Way to take the map → its centre of mass; the crop's corner where nothing is left of the map."""
    raises = lesion.cam.clip(min=0)
    ways: dict[str, npt.NDArray[np.float64]] = {
        RAISES: raises,
        "… only where it is at least half of its highest value": np.where(raises >= raises.max() / 2, raises, 0),
        "lowers the output": (-lesion.cam).clip(min=0),
    }
    centres = {name: centre_of_mass(values, shape) if values.any() else (0, 0) for name, values in ways.items()}
    return {**centres, "the middle of the crop, for comparison": (shape[0] // 2, shape[1] // 2)}


def print_slides(folder: Path, target: Target) -> None:
    """Figures of the bags of the run."""
    found = judge_slides(folder, target)
    print(f"  {target}: {len(found.bags)} held-out patients with the signal, {np.mean(found.bags):.0f} bags each")
    for name, hits in found.hits.items():
        share = f"{sum(hits)} of {len(hits)} (chance {np.mean(found.chance):.2f})"
        print(f"    hot spot in the top 10 % of bags by {name}: {share}")


def print_lesions(folder: Path, settings: Settings, target: Target) -> None:
    """Figures of the lesions of the run."""
    found = judge_lesions(folder, settings, target)
    print(f"  {target}: Grad-CAM's centre of mass in the lesion, which takes {np.mean(found.areas):.2f} of the crop")
    for name, hits in found.in_lesion.items():
        print(f"    {name}: {sum(hits)} of {len(hits)} patients")


def print_source(folder: Path, source: ImagingSource) -> None:
    """Figures of slides or CT, with a backbone of drawn weights and one that was trained on other patients."""
    settings = make(folder, source)
    began = time.perf_counter()
    trained = train_backbone(folder, settings, source)
    print(f"explain: a backbone trained on other patients in {time.perf_counter() - began:.0f} s")
    targets: tuple[Target, ...] = ("risk", "response")
    for weights, own in {"drawn": settings, "trained": trained}.items():
        fill(folder, own, source)
        for seed in FIT_SEEDS:
            auc = train(folder, own, seed)
            print(f"explain: {source}, {weights} weights, seed {seed}, AUC of held-out patients {auc:.3f}")
            for target in targets:
                if source == "slides":
                    print_slides(folder, target)
                else:
                    print_lesions(folder, own, target)
    if source == "slides":
        for target in targets:
            for line in sentences(checks_as_json(explainer_of(folder, target).check()), WORDING[target]):
                print(f"    {line}")


def main() -> None:
    """Print the figures."""
    began = time.perf_counter()
    sources: tuple[ImagingSource, ...] = ("slides", "ct")
    for source in sources:
        with tempfile.TemporaryDirectory() as temporary:
            print_source(Path(temporary), source)
    print(f"  all {time.perf_counter() - began:.0f} s")
