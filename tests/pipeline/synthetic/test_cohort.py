from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from mumo.config import load_settings
from mumo.errors import ConfigError
from mumo.pipeline.cohorts.cohort import load_cohort
from mumo.pipeline.synthetic import cohort as synthetic
from mumo.pipeline.synthetic.clinical import draw_information, draw_pathology_report, draw_radiology_report
from mumo.pipeline.synthetic.ct import MADE_UP_IDENTIFIERS
from mumo.pipeline.synthetic.outcomes import CUTOFF_DAYS


def files_of(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def label_of(fields: dict[str, object], cutoff_days: float) -> int | None:
    """The label rule of the paper, written down a second time."""
    if fields["recist"] in ("CR", "PR", "PD"):
        return int(fields["recist"] != "PD")
    if fields["pfs_days"] is None:
        return None
    if fields["pfs_days"] > cutoff_days:
        return 1
    return 0 if fields["pfs_event"] else None


def test_write_cohort__loads_without_a_warning(written) -> None:
    cohort = load_cohort(written.cohort.cohort_file)
    assert cohort.warnings == ()
    assert [patient.patient for patient in cohort.patients] == [person.patient for person in written.plan.patients]
    assert [slide.slide for slide in cohort.slides] == [slide.slide for slide in written.plan.slides]
    assert [study.ct for study in cohort.ct_studies] == [study.ct for study in written.plan.ct]
    assert dict(cohort.cutoff_days) == dict(CUTOFF_DAYS)


def test_write_cohort__every_source_file_exists(written) -> None:
    cohort = load_cohort(written.cohort.cohort_file)
    paths = [slide.path for slide in cohort.slides] + [study.path for study in cohort.ct_studies]
    paths += [slide.annotation for slide in cohort.slides if slide.annotation]
    paths += [lesion.mask for study in cohort.ct_studies for lesion in study.lesions if lesion.mask]
    assert [path for path in paths if not path.exists()] == []


def test_write_cohort__tables_give_the_drawn_labels(written) -> None:
    truth = pd.read_csv(written.cohort.truth, dtype={"label": "Int64"}).set_index("patient")
    cohort = load_cohort(written.cohort.cohort_file)
    found = {p.patient: label_of(dict(p.fields), CUTOFF_DAYS[p.treatment_group]) for p in cohort.patients}
    drawn = {patient: None if pd.isna(label) else int(label) for patient, label in truth.label.items()}
    assert found == drawn
    assert set(found.values()) == {0, 1, None}


def test_write_cohort__words_come_back_as_drawn(written) -> None:
    by_id = {patient.patient: patient for patient in load_cohort(written.cohort.cohort_file).patients}
    for person in written.plan.patients:
        fields = by_id[person.patient].fields
        drawn = dict(draw_information(person, written.plan.seed))
        drawn |= draw_pathology_report(person, written.plan.seed) or {}
        drawn |= draw_radiology_report(person, written.plan.ct, written.plan.seed) or {}
        assert by_id[person.patient].centre == person.centre
        assert by_id[person.patient].treatment_group == person.treatment_group
        for field in ("sex", "site", "line", "differentiation", "lauren", "lymph_nodes", "multiple_metastases"):
            assert fields[field] == (drawn.get(field) or None)
        for field in ("tils", "tumour_proportion", "metastatic_lesions", "pathology_time", "age"):
            assert fields[field] == (float(drawn[field]) if drawn.get(field) else None)
        for field in ("disease_sites", "lymph_node_sites"):
            assert fields[field] == (tuple(map(int, drawn[field])) if drawn.get(field) else None)
        year = drawn["start_year"]
        assert fields["start_year"] == (int(year[:4]) if year else None)
        primary = drawn.get("primary_present")
        assert fields["primary_present"] == ({"yes": True, "no": False}[primary] if primary else None)


def test_write_cohort__lesions_come_back_as_drawn(written) -> None:
    for study, plan in zip(load_cohort(written.cohort.cohort_file).ct_studies, written.plan.ct, strict=True):
        found = [(lesion.lesion, lesion.lesion_type) for lesion in study.lesions]
        assert found == [(lesion.lesion, lesion.lesion_type) for lesion in plan.lesions]
        for number, lesion in enumerate(study.lesions, start=1):
            assert (lesion.mask is None) == (plan.annotation == "boxes")
            assert (lesion.box is None) == (plan.annotation == "study mask")
            assert lesion.label == (number if plan.annotation == "study mask" else None)


def test_write_cohort__reports_and_single_items_are_missing(written) -> None:
    cohort = load_cohort(written.cohort.cohort_file)
    seen = [patient.fields for patient in cohort.patients]
    for group in (("tils", "tumour_proportion", "her2_heterogeneity"), ("lymph_nodes", "primary_present")):
        unknown = [[fields[field] is None for field in group] for fields in seen]
        assert any(all(row) for row in unknown), f"no patient without {group}"
        assert any(not any(row) for row in unknown), f"no patient with {group}"
    information = ("age", "line", "lauren", "differentiation", "disease_sites")
    assert any(fields[field] is None for fields in seen for field in information)


def test_write_cohort__settings_are_valid_and_small(written) -> None:
    settings = load_settings(written.cohort.settings_file)
    assert settings.tiles.bag_px == 512 and settings.tiles.bag_px // settings.tiles.word_px == 8
    assert settings.embed.weights == "random:0"


def test_write_cohort__truth_is_not_named_in_the_cohort_file(written) -> None:
    text = written.cohort.cohort_file.read_text(encoding="utf-8")
    assert "truth" not in text
    assert not any(word in text for word in MADE_UP_IDENTIFIERS)


def test_write_cohort__progress_counts_to_the_end(written) -> None:
    steps = len(written.plan.slides) + len(written.plan.ct) + 1
    assert written.progress == [(done, steps) for done in range(1, steps + 1)]


def test_write_cohort__same_arguments_give_the_same_files(written, tmp_path: Path) -> None:
    synthetic.write_cohort(tmp_path / "again", patients=len(written.plan.patients), seed=written.plan.seed)
    first, second = files_of(written.folder), files_of(tmp_path / "again")
    assert first.keys() == second.keys()
    assert [name for name in first if first[name] != second[name]] == []


def test_write_cohort__without_signal_only_outcomes_differ(written, tmp_path: Path) -> None:
    folder = tmp_path / "no-signal"
    synthetic.write_cohort(folder, patients=len(written.plan.patients), seed=written.plan.seed, signal=False)
    first, second = files_of(written.folder), files_of(folder)
    assert first.keys() == second.keys()
    assert {name for name in first if first[name] != second[name]} == {"patients.csv", "truth.csv"}
    outcome = ["Best response", "PFS (d)", "progressed", "OS (d)", "deceased"]
    tables = [pd.read_csv(where / "patients.csv", dtype=str) for where in (written.folder, folder)]
    pd.testing.assert_frame_equal(*(table.drop(columns=outcome) for table in tables))


def test_write_cohort__uses_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(synthetic, "write_slide", lambda *_: None)
    folder = tmp_path / "here"
    folder.mkdir()
    assert synthetic.write_cohort(folder, patients=8).cohort_file == folder / "cohort.toml"
    assert (folder / "cohort.toml").is_file()


def test_write_cohort__refuses_a_folder_with_files(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ConfigError, match="expected an empty folder"):
        synthetic.write_cohort(tmp_path, patients=8)
    assert (tmp_path / "mine.txt").read_text() == "keep me"


def test_write_cohort__refuses_a_file(tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(ConfigError, match="expected an empty folder"):
        synthetic.write_cohort(tmp_path / "mine.txt", patients=8)


def test_write_cohort__interrupted_leaves_no_cohort(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(done: int, steps: int) -> None:
        if done == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(synthetic, "write_slide", lambda *_: None)
    folder = tmp_path / "cohort"
    with pytest.raises(KeyboardInterrupt):
        synthetic.write_cohort(folder, patients=8, progress=stop)
    assert not folder.exists()
    synthetic.write_cohort(folder, patients=8)
    assert [path.name for path in tmp_path.iterdir()] == ["cohort"]


def test_cohort_file__needs_its_folder_only(written, tmp_path: Path) -> None:
    moved = tmp_path / "elsewhere"
    shutil.copytree(written.folder, moved)
    slides = load_cohort(moved / "cohort.toml").slides
    assert all(slide.path.is_relative_to(moved) for slide in slides)
