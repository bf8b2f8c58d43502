"""Grey-level windows: histograms, percentiles, fall-back, split; against numpy on the voxels themselves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import ct_files
import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given
from hypothesis import strategies as st

from mumo.config import Settings, WindowsSettings, parse_settings
from mumo.errors import ConfigError, InputError
from mumo.pipeline.cohorts.cohort import Cohort
from mumo.pipeline.windows import (
    WindowsStage,
    find_window,
    fit_windows,
    histogram_percentiles,
    lesion_percentiles,
    pool_histograms,
    training_patients,
)
from mumo.stores.records import Store
from mumo.stores.specs import HISTOGRAMS, WINDOWS
from mumo.stores.tables import read_rows, write_table

PLAIN = WindowsSettings(min_lesions=2, min_width_hu=1)


def histogram(voxels: Any, lesion_type: str = "liver", centre: str = "A", patient: str = "P1") -> dict[str, Any]:
    hu, counts = np.unique(np.rint(voxels).astype(int), return_counts=True)
    return {
        "patient": patient,
        "ct": "C1",
        "lesion": "L1",
        "lesion_type": lesion_type,
        "centre": centre,
        "hu": hu.tolist(),
        "voxels": counts.tolist(),
    }


@given(
    values=st.lists(st.integers(-1024, 3000), min_size=1, max_size=200),
    percentiles=st.lists(st.floats(0, 100), min_size=1, max_size=4),
)
def test_histogram_percentiles__are_numpys_on_the_voxels(values: list[int], percentiles: list[float]) -> None:
    hu, counts = np.unique(values, return_counts=True)
    found = histogram_percentiles(hu, counts, percentiles)
    np.testing.assert_allclose(found, np.percentile(values, percentiles), atol=1e-6)


def test_fit_windows__pools_the_voxels_of_lesions_of_one_type_and_centre() -> None:
    rng = np.random.default_rng(0)
    voxels = {
        ("liver", "A"): [rng.normal(60, 20, 900), rng.normal(90, 15, 50)],
        ("liver", "B"): [rng.normal(130, 20, 400), rng.normal(140, 10, 70)],
        ("bone", "A"): [rng.normal(400, 90, 300)],
    }
    rows = [histogram(v, *key) for key, lesions in voxels.items() for v in lesions]
    found = {(w["level"], w["lesion_type"], w["centre"]): w for w in fit_windows(rows, PLAIN)}
    groups = {
        ("pair", "liver", "A"): voxels["liver", "A"],
        ("pair", "liver", "B"): voxels["liver", "B"],
        ("type", "liver", ""): [*voxels["liver", "A"], *voxels["liver", "B"]],
        ("cohort", "", ""): [v for lesions in voxels.values() for v in lesions],
    }
    assert found.keys() == groups.keys(), "bone has one lesion, fewer than two"
    for key, members in groups.items():
        expected = np.percentile(np.rint(np.concatenate(members)), [0.5, 99.5])
        np.testing.assert_allclose((found[key]["low_hu"], found[key]["high_hu"]), expected, atol=1e-9)
        assert found[key]["lesions"] == len(members)


def test_lesion_percentiles__give_every_lesion_the_same_weight() -> None:
    rng = np.random.default_rng(0)
    small, large = rng.integers(0, 50, 40), rng.integers(100, 150, 4000)
    rows = [histogram(small), histogram(large)]
    # 100 copies of the small lesion weigh what the large one weighs
    pooled = np.concatenate([np.repeat(small, 100), large])
    percentiles = [0.5, 10, 49.9, 50.1, 99.5]
    expected = np.percentile(pooled, percentiles, method="inverted_cdf")
    np.testing.assert_array_equal(lesion_percentiles(rows, percentiles), expected)
    np.testing.assert_array_equal(lesion_percentiles(rows[::-1], percentiles), expected)


def test_fit_windows__weighting_decides_whether_large_lesions_dominate() -> None:
    rows = [histogram(np.full(10, 20)), histogram(np.full(5000, 120))]
    windows = {
        weighting: fit_windows(rows, PLAIN.model_copy(update={"weighting": weighting}))[0]
        for weighting in ("voxels", "lesions")
    }
    assert windows["voxels"]["low_hu"] == pytest.approx(119.5)
    assert (windows["lesions"]["low_hu"], windows["lesions"]["high_hu"]) == (20, 120)


def test_fit_windows__does_not_depend_on_the_order_of_lesions() -> None:
    rng = np.random.default_rng(1)
    rows = [histogram(rng.normal(50, 30, 200), t, c) for t in ("liver", "bone") for c in "ABC" for _ in range(3)]
    assert fit_windows(rows, PLAIN) == fit_windows(rows[::-1], PLAIN)


def test_fit_windows__widens_narrow_windows_around_their_middle() -> None:
    window = fit_windows([histogram([40, 41, 42])], WindowsSettings(low_percentile=0, high_percentile=100))[0]
    assert (window["low_hu"], window["high_hu"]) == (16.0, 66.0)


def test_fit_windows__of_no_lesions_are_none() -> None:
    assert fit_windows([], PLAIN) == []


def test_pool_histograms__adds_voxels_of_equal_intensity() -> None:
    hu, voxels = pool_histograms([histogram([1, 1, 5]), histogram([5, -3])])
    assert (hu.tolist(), voxels.tolist()) == ([-3, 1, 5], [1, 2, 2])


def test_find_window__falls_back_from_pair_to_type_to_cohort() -> None:
    def row(level: str, lesion_type: str, centre: str, low: float) -> dict[str, Any]:
        return {"level": level, "lesion_type": lesion_type, "centre": centre, "low_hu": low, "high_hu": 99.0}

    rows = [row("cohort", "", "", 1.0), row("type", "liver", "", 2.0), row("pair", "liver", "A", 3.0)]
    assert find_window(rows, "liver", "A") == (3.0, 99.0, "pair")
    assert find_window(rows, "liver", "B") == (2.0, 99.0, "type")
    assert find_window(rows, "bone", "A") == (1.0, 99.0, "cohort")
    with pytest.raises(InputError, match="found none"):
        find_window([], "bone", "A")


def test_training_patients__are_those_of_part_train(tmp_path: Path) -> None:
    file = tmp_path / "split.csv"
    file.write_text("patient,part\nP1,train\nP2,test\nP3,train\nP4,validation\n", encoding="utf-8-sig")
    assert training_patients(file) == {"P1", "P3"}


@pytest.mark.parametrize(
    "content", [b"patient,part\nP1,test\n", b"a,b\n1,train\n", b"", b"\xff\xfe\x00", b"patient\nP1\n"]
)
def test_training_patients__refuses_a_file_without_any(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "split.csv"
    file.write_bytes(content)
    with pytest.raises(ConfigError, match=r"windows\.split_file split\.csv"):
        training_patients(file)
    with pytest.raises(ConfigError, match="cannot be read"):
        training_patients(tmp_path / "none.csv")


@pytest.fixture
def studies(tmp_path: Path) -> Cohort:
    """Three patients of two centres, a lesion each by mask; of different brightness."""
    made = []
    for number, (hu, centre) in enumerate(((60.0, "A"), (100.0, "A"), (160.0, "B")), start=1):
        image, mask = ct_files.ellipsoid(seed=number, hu=hu)
        volume = ct_files.write(image, tmp_path / f"v{number}.nii.gz")
        given = ct_files.lesion(mask=ct_files.write(mask, tmp_path / f"m{number}.nii.gz"), label=3)
        made.append(ct_files.study(volume, given, ct=f"C{number}", patient=f"P{number}", centre=centre))
    return ct_files.cohort(*made)


def voxels_of(cohort: Cohort, *numbers: int) -> np.ndarray:
    """Intensities inside the lesions of studies, read with SimpleITK alone."""
    parts = []
    for study in (cohort.ct_studies[n - 1] for n in numbers):
        inside = sitk.GetArrayFromImage(sitk.ReadImage(str(study.lesions[0].mask))) > 0
        parts.append(sitk.GetArrayFromImage(sitk.ReadImage(str(study.path)))[inside])
    return np.concatenate(parts)


def settings(**windows: Any) -> Settings:
    return parse_settings({"windows": {"min_lesions": 2, **windows}})


def fitted(store: Store) -> dict[tuple[str, str, str], tuple[float, float]]:
    rows = read_rows(store.part("windows", "cohort", "windows.parquet"), WINDOWS)
    return {(r["level"], r["lesion_type"], r["centre"]): (r["low_hu"], r["high_hu"]) for r in rows}


def test_windows_stage__from_files_to_windows(tmp_path: Path, studies: Cohort) -> None:
    store = Store.create(tmp_path / "store")
    report = ct_files.extract(WindowsStage(), studies, store, settings())
    assert (report.ok, report.failed) == (4, {})
    row = read_rows(store.part("windows", "ct-C2", "histograms.parquet"), HISTOGRAMS)[0]
    hu, counts = np.unique(voxels_of(studies, 2), return_counts=True)
    assert (row["hu"], row["voxels"]) == (hu.tolist(), counts.tolist())
    found = fitted(store)
    assert found.keys() == {("pair", "liver", "A"), ("type", "liver", ""), ("cohort", "", "")}
    np.testing.assert_allclose(found["pair", "liver", "A"], np.percentile(voxels_of(studies, 1, 2), [0.5, 99.5]))
    np.testing.assert_allclose(found["cohort", "", ""], np.percentile(voxels_of(studies, 1, 2, 3), [0.5, 99.5]))
    record = store.record("windows", "cohort")
    assert record is not None
    assert record.summary == {"lesions": 3, "patients": 3}


def test_windows_stage__draws_the_same_picture_each_time(tmp_path: Path, studies: Cohort) -> None:
    pictures = []
    for name in ("one", "two"):
        store = Store.create(tmp_path / name)
        ct_files.extract(WindowsStage(), studies, store, settings())
        pictures.append(store.part("windows", "cohort", "windows.png").read_bytes())
    assert pictures[0] == pictures[1]
    pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(store.part("windows", "cohort", "windows.png"))))
    assert pixels.shape[:2] == (440, 800)
    assert len(np.unique(pixels.reshape(-1, pixels.shape[-1]), axis=0)) > 10


def test_windows_stage__a_new_percentile_leaves_the_histograms_alone(tmp_path: Path, studies: Cohort) -> None:
    store = Store.create(tmp_path / "store")
    ct_files.extract(WindowsStage(), studies, store, settings())
    again = ct_files.extract(WindowsStage(), studies, store, settings(low_percentile=5))
    assert (again.up_to_date, again.ok) == (3, 1)
    threshold = parse_settings({"windows": {"min_lesions": 2}, "rois": {"fallback_threshold_hu": [1, 2]}})
    assert ct_files.extract(WindowsStage(), studies, store, threshold).ok == 4
    crops = parse_settings({"windows": {"min_lesions": 2}, "rois": {"crop_px": 64, "fallback_threshold_hu": [1, 2]}})
    assert ct_files.extract(WindowsStage(), studies, store, crops).ok == 0


def test_windows_stage__is_fitted_on_training_patients_only(tmp_path: Path, studies: Cohort) -> None:
    store, split = Store.create(tmp_path / "store"), tmp_path / "split.csv"
    split.write_text("patient,part\nP1,train\nP2,train\nP3,test\n")
    ct_files.extract(WindowsStage(), studies, store, settings(split_file=str(split)))
    expected = np.percentile(voxels_of(studies, 1, 2), [0.5, 99.5])
    np.testing.assert_allclose(fitted(store)["cohort", "", ""], expected)
    record = store.record("windows", "cohort")
    assert record is not None
    assert set(record.depends["upstream"]) == {f"windows/ct-C{n}/histograms.parquet" for n in (1, 2)}
    assert str(tmp_path) not in str(record)
    split.write_text("patient,part\nP1,train\nP2,test\nP3,train\n")
    again = ct_files.extract(WindowsStage(), studies, store, settings(split_file=str(split)))
    assert (again.up_to_date, again.ok) == (3, 1)
    np.testing.assert_allclose(fitted(store)["cohort", "", ""], np.percentile(voxels_of(studies, 1, 3), [0.5, 99.5]))


def test_windows_stage__goes_on_without_a_study_that_failed(tmp_path: Path, studies: Cohort) -> None:
    store = Store.create(tmp_path / "store")
    studies.ct_studies[1].path.write_bytes(b"damaged")
    report = ct_files.extract(WindowsStage(), studies, store, settings())
    assert list(report.failed) == ["ct-C2"]
    assert "CT study C2, volume: found" in report.failed["ct-C2"]
    np.testing.assert_allclose(fitted(store)["cohort", "", ""], np.percentile(voxels_of(studies, 1, 3), [0.5, 99.5]))


def test_windows_stage__waits_for_studies_that_were_not_tried(tmp_path: Path, studies: Cohort) -> None:
    store = Store.create(tmp_path / "store")
    report = ct_files.extract(WindowsStage(), studies, store, settings(), only=("C1", "cohort"))
    assert report.ok == 1
    assert list(report.waiting) == ["cohort"]


def test_windows_stage__takes_the_table_of_another_store_as_it_is(tmp_path: Path, studies: Cohort) -> None:
    first, second = Store.create(tmp_path / "first"), Store.create(tmp_path / "second")
    ct_files.extract(WindowsStage(), studies, first, settings())
    table = first.part("windows", "cohort", "windows.parquet")
    report = ct_files.extract(WindowsStage(), studies, second, settings(table=str(table)))
    assert (report.planned, report.ok) == (1, 1)
    assert fitted(second) == fitted(first)


def test_windows_stage__of_a_cohort_without_ct_or_without_lesions(tmp_path: Path, studies: Cohort) -> None:
    store = Store.create(tmp_path / "store")
    assert ct_files.extract(WindowsStage(), ct_files.cohort(), store, settings()).planned == 0
    bare = ct_files.cohort(ct_files.study(studies.ct_studies[0].path))
    report = ct_files.extract(WindowsStage(), bare, store, settings())
    assert report.empty == 2
    assert report.nothing_in == {"ct-C1": "the study has no lesions", "cohort": "no study has lesions"}
    assert fitted(store) == {}


def test_windows_stage__counts_intensities_that_are_far_out(tmp_path: Path) -> None:
    array = np.array([[[-1e30, 1e30], [5.4, 5.6]]] * 2, np.float32)
    volume = ct_files.write(ct_files.image_of(array), tmp_path / "v.nrrd")
    cohort = ct_files.cohort(ct_files.study(volume, ct_files.lesion(box=(0, 0, 0, 1, 1, 1))))
    store = Store.create(tmp_path / "store")
    wide = parse_settings({"rois": {"fallback_threshold_hu": [-1e38, 1e38]}})
    ct_files.extract(WindowsStage(), cohort, store, wide)
    row = read_rows(store.part("windows", "ct-C1", "histograms.parquet"), HISTOGRAMS)[0]
    assert (row["hu"], row["voxels"]) == ([-(10**9), 5, 6, 10**9], [2, 2, 2, 2])


def test_windows_stage__names_the_lesion_that_fails(tmp_path: Path, studies: Cohort) -> None:
    study = studies.ct_studies[0]
    wrong = ct_files.lesion("L9", mask=study.lesions[0].mask, label=8)
    report = ct_files.extract(
        WindowsStage(), ct_files.cohort(ct_files.study(study.path, wrong)), Store.create(tmp_path / "s"), settings()
    )
    assert "CT study C1, lesion L9, mask: found labels 3; expected voxels of label 8" in report.failed["ct-C1"]


def test_windows_stage__check_reads_the_split_and_the_table(tmp_path: Path, studies: Cohort) -> None:
    none = settings(split_file=str(tmp_path / "none.csv"), table=str(tmp_path / "none.parquet"))
    problems = WindowsStage().check(studies, none)
    assert [problem.column for problem in problems] == ["windows.split_file", "windows.table"]
    assert WindowsStage().check(studies, settings()) == []
    foreign = tmp_path / "split.csv"
    foreign.write_text("patient,part\nP77,train\n")
    (problem,) = WindowsStage().check(studies, settings(split_file=str(foreign)))
    assert "expected training patients with a CT study, found none of the 1" in problem.found
    flat = {"level": "cohort", "lesion_type": "", "centre": "", "low_hu": 9.0, "high_hu": 9.0, "lesions": 1}
    write_table(tmp_path / "flat.parquet", [flat], WINDOWS)
    (problem,) = WindowsStage().check(studies, settings(table=str(tmp_path / "flat.parquet")))
    assert "low end is below" in problem.found
    other = tmp_path / "other.parquet"
    write_table(other, [], HISTOGRAMS)
    assert len(WindowsStage().check(studies, settings(table=str(other)))) == 1
