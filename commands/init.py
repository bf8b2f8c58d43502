"""`mumo init`: a first cohort file from a folder."""

from __future__ import annotations

import shlex
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from .options import Verbose, set_up_logging

if TYPE_CHECKING:
    from ..pipeline.cohorts.drafting.draft import Draft

SHOWN_FILES = 5
"""How many files that were not placed for the same reason are named."""

SHOWN_UNREADABLE = 20
"""How many files that cannot be read are named."""


def init(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Folder with slides, CT studies and tables.")],
    patient: Annotated[
        list[str] | None,
        typer.Option(
            metavar="PATTERN",
            help="Where the patient's id stands in paths: 'slides/{patient}_*.svs', '{patient}/**'; may be repeated.",
        ),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace what an earlier draft wrote.")] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what was found; write nothing.")] = False,
    verbose: Verbose = False,
) -> None:
    """Draft the cohort file and its tables from a folder of files, for you to complete.

    Reads FOLDER: headers of slides, DICOM and volumes, label masks, and tables of patients; writes FOLDER/cohort.toml,
    slides.csv, ct.csv and lesions.csv, and patients.csv where there is no table of patients. A file's patient is the id
    of that table which stands in its path; without one, the first folder of the path. Files that cannot be read are
    listed like the others, and named. Outcomes, types of lesions and resolutions are never guessed: they are yours to
    fill in. Returns 0, or 2 when nothing can be drafted.
    """
    set_up_logging(verbose)
    from ..pipeline.cohorts.drafting.draft import draft_cohort
    from ..pipeline.cohorts.drafting.writing import write_draft
    from .terminal import item_bar

    with item_bar("looked at") as bar:
        draft = draft_cohort(folder, patient or (), progress=bar)
    written = [] if dry_run else write_draft(draft, force=force)
    _print_found(draft)
    _print_unreadable(draft)
    _print_unplaced(draft)
    if written:
        typer.echo(f"written: {', '.join(str(file) for file in written)}")
        check = f"mumo check {shlex.quote(str(written[0]))}"
        typer.echo(f"next: name your columns in {written[0].name}, fill in what is empty, and run: {check}")


def _print_found(draft: Draft) -> None:
    table, slides, studies = draft.table, draft.slides.rows, draft.ct.rows
    if table is None:
        names = list(draft.study_ids.values())
        typer.echo(f"patients: {len(names)}, named by paths: {', '.join(names[:SHOWN_FILES])}{_more(names)}")
        typer.echo(
            "  no table has ids that stand in paths, so patients.csv is drafted; if these are wrong, use --patient"
        )
    else:
        files = f"{table.with_files} of them in paths of files"
        typer.echo(f"patients: {len(table.ids)} ids in {table.path}, column {table.column!r}, {files}")
        if table.repeated:
            typer.echo(f"  {len(table.repeated)} of them in several rows: keep a row a patient")
    for further in draft.further:
        sheet = f", sheet {further.how.sheet!r}" if further.how.sheet else ""
        typer.echo(f"  also in {further.path}{sheet}: stands in cohort.toml as [[reports]], behind #")
    renamed = sum(one != study for one, study in draft.study_ids.items())
    if renamed:
        typer.echo(f"patients: {renamed} id(s) that are no study ids got one, see [patients.values.patient]")
    without = sum(row.needs_mpp for row in slides)
    annotated = sum(row.annotation is not None for row in slides)
    typer.echo(
        f"slides: {len(slides)} of {len({row.patient for row in slides})} patients, {annotated} with an annotation"
        + (f"; {without} without a resolution: fill in mpp in slides.csv" if without else "")
    )
    for row in [row for row in slides if row.needs_mpp][:SHOWN_FILES]:
        typer.echo(f"  no resolution: {row.slide} ({row.path})")
    lesions = sum(len(row.lesions) for row in studies)
    typer.echo(
        f"CT: {len(studies)} studies of {len({row.patient for row in studies})} patients, {lesions} lesions"
        + ("; fill in lesion_type in lesions.csv" if lesions else "")
    )
    bare = [row.ct for row in studies if not row.lesions]
    if bare:
        typer.echo(f"  without a mask: {', '.join(bare[:SHOWN_FILES])}{_more(bare)}; give boxes, or leave them out")
    for a, b in draft.ct.doubles:
        typer.echo(f"  on one grid, perhaps one scan twice: {a} and {b}; leave one out")


def _print_unreadable(draft: Draft) -> None:
    if not (unreadable := draft.unreadable):
        return
    typer.echo(f"cannot be read: {len(unreadable)} of these, listed all the same, so that their failure is recorded:")
    for name, path, why in unreadable[:SHOWN_UNREADABLE]:
        typer.echo(f"  {name} ({path}): {why}")
    if len(unreadable) > SHOWN_UNREADABLE:
        typer.echo(f"  and {len(unreadable) - SHOWN_UNREADABLE} more, which mumo check names")
    typer.echo("  copy or export them again; take out the rows of files that are no slide, CT or mask")


def _print_unplaced(draft: Draft) -> None:
    from ..stores.records import is_safe_id

    alike: dict[str, list[Path]] = {}
    for path, reason in draft.unplaced:
        alike.setdefault(reason, []).append(path)
    for reason, paths in alike.items():
        typer.echo(f"not placed: {', '.join(map(str, paths[:SHOWN_FILES]))}{_more(paths)}: {reason}", err=True)
    others: Counter[str] = draft.scan.others
    if others:
        kinds = ", ".join(f"{count} {kind}" for kind, count in others.most_common())
        typer.echo(f"not looked at: {kinds}", err=True)
    if draft.without_files:
        names = [one if is_safe_id(one) else "…" for one in draft.without_files]
        typer.echo(f"no files: {len(names)} patients: {', '.join(names[:SHOWN_FILES])}{_more(names)}", err=True)


def _more(items: list[Path] | list[str]) -> str:
    return f" and {len(items) - SHOWN_FILES} more" if len(items) > SHOWN_FILES else ""
