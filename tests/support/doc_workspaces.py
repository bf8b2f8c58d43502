"""Folders in which commands of the documentation find what their page takes for granted."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd

from mumo.pipeline.synthetic.cohort import write_cohort

QUICK = """
[model]
width = 16
heads = 2
feed_forward = 16

[fit]
epochs = 1
average_best = 1
bootstrap = 20
"""
"""Trainings only have to run; what they find is tested elsewhere."""


def make_workspace(folder: Path, demo: Path, script: str) -> None:
    """The demo's cohort as `cohort.toml`, its store as `store` and `other-store`, its run as `run`; and all in `demo`.

    `run` is left out where the commands train it themselves. Files of items are never changed once written, so they
    are linked; everything else is copied.
    """
    shutil.copytree(demo, folder / "demo", copy_function=_link_items)
    shutil.copytree(folder / "demo" / "cohort", folder, dirs_exist_ok=True, copy_function=os.link)
    for name in ("store", "other-store"):
        shutil.copytree(demo / "store", folder / name, copy_function=_link_items)
    if not re.search(r"^mumo fit \S+ run(?:\s|$)", script, flags=re.MULTILINE):
        shutil.copytree(demo / "run", folder / "run")
    for settings in (folder / "demo" / "cohort" / "demo.toml", folder / "quick.toml"):
        text = (demo / "cohort" / "demo.toml").read_text()
        settings.unlink(missing_ok=True)
        settings.write_text(text.split("[fit]")[0] + QUICK)
    if "--scheduler" in script:
        # something to compute on the cluster
        shutil.rmtree(folder / "store" / "clinical" / "records")


def add_expression(folder: Path) -> None:
    """Gene expression of two of three patients."""
    patients = pd.read_parquet(next((folder / "store/clinical/items/cohort").glob("*/patients.parquet")))["patient"]
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(rng.normal(size=(len(patients), 5)), columns=[f"gene_{n}" for n in range(5)])
    frame.insert(0, "patient", patients)
    frame[frame.index % 3 != 0].to_csv(folder / "expression.csv", index=False)


def add_second_cohort(folder: Path) -> None:
    """`second`: another hospital's cohort, with other centres, other ids, and more that is unknown."""
    write_cohort(folder / "second", patients=12, seed=11)
    for file, column in {
        "patients.csv": "hospital_no", "slides.csv": "case", "ct.csv": "pid", "pathology_reports.tsv": "case",
        "radiology_reports.parquet": "pid",
    }.items():  # fmt: skip
        path = folder / "second" / file
        separator = "\t" if path.suffix == ".tsv" else ","
        parquet = path.suffix == ".parquet"
        table = pd.read_parquet(path) if parquet else pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False)
        table[column] = table[column].str.replace("P", "E", regex=False)
        if file == "patients.csv":
            table["site_code"] = table["site_code"].map({"A": "Leiden", "B": "Porto"})
            table.loc[::4, ["Best response", "PFS (d)", "progressed", "Lauren"]] = ""
        if parquet:
            table.to_parquet(path, index=False)
        else:
            table.to_csv(path, sep=separator, index=False)


def make_own_cohort(folder: Path, demo: Path, toml: str) -> None:
    """A folder as the page on own cohorts describes it: its cohort file, the demo's data in its columns and words.

    `my-cohort` in it has two patients' slides and no tables yet.
    """
    for name in ("slides", "annotations", "ct", "masks"):
        shutil.copytree(demo / "cohort" / name, folder / name, copy_function=os.link)
    (folder / "cohort.toml").write_text(toml.replace("patients.xlsx", "patients.csv"))
    (folder / "quick.toml").write_text((demo / "cohort" / "demo.toml").read_text().split("[fit]")[0] + QUICK)
    tables = {name: pd.read_csv(demo / "cohort" / f"{name}.csv", dtype=str) for name in _COLUMNS}
    for name, table in tables.items():
        table[list(_COLUMNS[name])].rename(columns=_COLUMNS[name]).replace(_WORDS).to_csv(
            folder / f"{name}.csv", index=False
        )
    raw = folder / "my-cohort"
    for row in tables["slides"].head(2).itertuples():
        (raw / row.case).mkdir(parents=True)
        os.link(demo / "cohort" / row.image_file, raw / row.case / Path(row.image_file).name)


_COLUMNS = {
    "patients": {
        "hospital_no": "Study ID",
        "Best response": "Best response",
        "PFS (d)": "PFS (days)",
        "progressed": "Progressed",
        "OS (d)": "OS (days)",
        "deceased": "Died",
        "Sex": "Sex",
        "Age at start": "Age",
    },
    "slides": {
        "slide_no": "Slide",
        "case": "Study ID",
        "image_file": "File",
        "contours": "Contours",
        "um_per_px": "Microns per pixel",
    },
    "ct": {"study": "Study", "pid": "Study ID", "image": "Folder", "series": "Series", "segmentation": "Mask"},
    "lesions": {
        "target": "Lesion",
        "study": "Study",
        "organ": "Organ",
        "mask_value": "Label",
        **{f"{end}_mm": f"{end[0]}{1 if 'low' in end else 2}" for end in
           ("x_low", "y_low", "z_low", "x_high", "y_high", "z_high")},
    },
}  # fmt: skip
_WORDS = {"M": "m", "F": "f", "unk": "k.A.", "not CR, not PD": "non-CR/non-PD"}


def _link_items(source: str, target: str) -> None:
    if "items" in Path(source).parts:
        os.link(source, target)
    else:
        shutil.copy2(source, target)
