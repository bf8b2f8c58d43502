"""Simulated annotators: how outlines and boxes move, and which items of a store that touches."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import ct_files
import numpy as np
import pytest
import shapely

from mumo.config import RoisSettings, load_settings
from mumo.errors import ConfigError
from mumo.pipeline import annotators
from mumo.pipeline.annotators import seed_store, vary_cohort
from mumo.pipeline.cohorts.cohort import Slide, load_cohort
from mumo.pipeline.cohorts.variation import Variation
from mumo.pipeline.extract import Choice, plan_extract
from mumo.pipeline.pathology.varied import vary_areas
from mumo.pipeline.radiology.varied import vary_box
from mumo.pipeline.radiology.volumes import VolumeHeader, read_header
from mumo.stores.records import Store
from mumo.stores.specs import STAGES

FIRST = Variation(seed=0, number=1, share=0.05)


def disc(x: float, y: float, radius: float) -> shapely.Polygon:
    return shapely.Point(x, y).buffer(radius)


def test_vary_areas__moves_by_the_share_of_the_size() -> None:
    area = disc(5000, 4000, 1000)
    size = np.sqrt(area.area)
    shifts, sizes, wobbles = [], [], []
    for number in range(300):
        ((kind, moved),) = vary_areas([(3, area)], "S1", replace(FIRST, number=number))
        assert kind == 3
        assert moved.is_valid
        shifts.append([moved.centroid.x - 5000, moved.centroid.y - 4000])
        sizes.append(np.log(np.sqrt(moved.area) / size))
        ring = shapely.get_coordinates(moved.exterior) - [moved.centroid.x, moved.centroid.y]
        wobbles.append(np.hypot(*ring.T).std() / size)
    assert np.std(shifts) / size == pytest.approx(0.05, rel=0.1)
    assert np.std(sizes) == pytest.approx(0.05, rel=0.15)
    assert np.sqrt(np.mean(np.square(wobbles))) == pytest.approx(0.05, rel=0.15)


def test_vary_areas__depends_on_seed_annotator_slide_and_order_alone() -> None:
    areas = [(1, disc(0, 0, 100)), (2, disc(900, 0, 100))]

    def drawn(slide: str = "S1", **changes: int) -> list[bytes]:
        return [shapely.to_wkb(area) for _, area in vary_areas(areas, slide, replace(FIRST, **changes))]

    assert drawn() == drawn()
    for other in (drawn("S2"), drawn(number=2), drawn(seed=1)):
        assert all(a != b for a, b in zip(drawn(), other, strict=True))
    assert [kind for kind, _ in vary_areas(areas, "S1", FIRST)] == [1, 2]


def test_vary_areas__keeps_holes_and_parts() -> None:
    ring = disc(0, 0, 400).difference(disc(0, 0, 200)).union(disc(2000, 0, 300))
    ((_, moved),) = vary_areas([(1, ring)], "S1", replace(FIRST, share=0.01))
    assert len(shapely.get_parts(moved)) == 2
    assert sum(len(part.interiors) for part in shapely.get_parts(moved)) == 1


def header(tmp_path: Path) -> VolumeHeader:
    image, _ = ct_files.ellipsoid()
    return read_header(ct_files.write(image, tmp_path / "v.nrrd"), max_voxels=10**6)


@pytest.mark.parametrize("unit", ["voxel", "mm"])
def test_vary_box__never_leaves_the_volume(tmp_path: Path, unit: str) -> None:
    head = header(tmp_path)
    size = head.stored.size_xyz
    if unit == "voxel":
        box = (0, 0, 0, size[0] - 1, size[1] - 1, size[2] - 1)
    else:
        corners = head.stored.to_lps().corners_mm()
        box = (*corners.min(axis=0), *corners.max(axis=0))
    lesion = replace(ct_files.lesion("L1", box=tuple(map(float, box))), box_unit=unit)
    moved = [vary_box(head, lesion, "C1", replace(FIRST, number=n, share=0.3)) for n in range(30)]
    assert len(set(moved)) > 10
    for found in moved:
        assert all(low <= high for low, high in zip(found[:3], found[3:], strict=True))
        if unit == "voxel":
            assert all(low >= 0 and high < count for low, high, count in zip(found[:3], found[3:], size, strict=True))
            assert all(float(value).is_integer() for value in found)


def test_vary_cohort__counts_what_it_moves_and_what_it_leaves(tmp_path: Path) -> None:
    image, mask = ct_files.ellipsoid()
    volume = ct_files.write(image, tmp_path / "v.nrrd")
    masked = ct_files.lesion("L2", mask=ct_files.write(mask, tmp_path / "m.nrrd"))
    study = ct_files.study(volume, ct_files.lesion("L1", box=(2, 2, 1, 12, 13, 5)), masked)
    broken = ct_files.study(
        tmp_path / "none.nrrd", ct_files.lesion("L1", box=(2, 2, 1, 9, 9, 5)), ct="C2", patient="P2"
    )
    slides = tuple(
        Slide(name, patient, Path("s.tif"), annotation, None, False)
        for name, patient, annotation in (
            ("S1", "P3", Path("a.xml")),
            ("S2", "P4", Path("a.png")),
            ("S3", "P5", None),
        )
    )
    cohort = replace(ct_files.cohort(study, broken), slides=slides)
    varied = vary_cohort(cohort, replace(FIRST, share=0.2), RoisSettings())
    assert (varied.slides, varied.lesions, varied.left) == (1, 1, 2)
    assert varied.patients == {"P3", study.patient}
    assert [slide.variation is None for slide in varied.cohort.slides] == [False, True, True]
    assert varied.cohort.ct_studies[0].lesions[1] == masked
    assert varied.cohort.ct_studies[1] == broken


def test_seed_store__shares_files_and_leaves_runs_behind(tmp_path: Path) -> None:
    store = Store.create(tmp_path / "store")
    staging = store.begin("tiles", "slide-S1")
    (staging / "part").write_text("a")
    store.commit("tiles", "slide-S1", staging, depends={}, status="ok", summary={}, seconds=0.1)
    (store.path / "runs" / "1").mkdir(parents=True)
    seeded = seed_store(store.path, tmp_path / "other", FIRST)
    one, other = store.part("tiles", "slide-S1", "part"), seeded.part("tiles", "slide-S1", "part")
    assert one.stat().st_ino == other.stat().st_ino
    assert not (seeded.path / "runs").exists()
    staging = seeded.begin("tiles", "slide-S1")
    (staging / "part").write_text("b")
    seeded.commit("tiles", "slide-S1", staging, depends={"x": 1}, status="ok", summary={}, seconds=0.1)
    assert store.part("tiles", "slide-S1", "part").read_text() == "a"
    assert store.digest(STAGES) != seeded.digest(STAGES)
    assert seed_store(store.path, tmp_path / "other", FIRST).digest(STAGES) == seeded.digest(STAGES)
    with pytest.raises(ConfigError, match="of something else"):
        seed_store(store.path, tmp_path / "other", replace(FIRST, seed=1))


@pytest.mark.slow
def test_robustness__extracts_what_is_touched_alone_and_reports_the_spread(
    demo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from mumo.cli import main

    shutil.copytree(demo / "run", tmp_path / "run")
    cohort_file, settings_file = demo / "cohort" / "cohort.toml", demo / "cohort" / "demo.toml"
    places = [cohort_file, demo / "store", tmp_path / "run", tmp_path / "out", "--config", settings_file]
    with pytest.raises(SystemExit) as ended:
        main(["robustness", *map(str, places), "--sets", "1", "--json", "--workers", "2"])
    assert not ended.value.code
    settings = load_settings(settings_file)
    cohort = load_cohort(cohort_file, None, settings.clinical)
    varied = vary_cohort(cohort, FIRST, settings.rois)
    base, other = Store.open(demo / "store"), Store.open(tmp_path / "out" / "annotator-1")
    for stage, ids in {
        "tiles": {f"slide-{slide.slide}" for slide in varied.cohort.slides if slide.variation},
        "rois": {
            f"ct-{new.ct}" for new, old in zip(varied.cohort.ct_studies, cohort.ct_studies, strict=True) if new != old
        },
    }.items():
        old, new = base.records(stage), other.records(stage)
        assert {item for item in new if new[item].fingerprint != old[item].fingerprint} == ids
    assert {p.state for p in plan_extract(varied.cohort, other, settings, Choice(annotators.STAGES))} == {"done"}
    summary = json.loads(capsys.readouterr().out)
    assert summary == json.loads((tmp_path / "run" / "robustness" / "summary.json").read_text())
    assert (summary["slides_moved"], summary["lesions_moved"]) == (varied.slides, varied.lesions)
    assert list(summary["auc"]) == ["as drawn", "annotator-1"]
