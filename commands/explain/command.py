"""`mumo explain`: what a run's predictions rest on, patient by patient, and whether that means something.

The command line registers this module's command; it stands here because it is the only user of both halves of mumo
besides the demo.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..options import (
    AsJson,
    Assignments,
    ConfigFile,
    Device,
    OtherWindows,
    RunFolder,
    StoreFolder,
    Tables,
    Verbose,
    Workers,
    set_up_logging,
    table_files,
    worker_count,
)

if TYPE_CHECKING:
    from ...config import Settings, TilesSettings
    from ...fusion.attribution import Target
    from ...fusion.explain import Checks, Explained, Explainer
    from ...fusion.explained import Wording
    from ...pipeline.networks.backbone import Backbone
    from ...stores.places import Place
    from ...stores.records import Store
    from .drawing import Job
    from .patient import Page

_log = logging.getLogger(__name__)

TOP = 4
"""Most important bags that are shown as pictures."""


@dataclass(frozen=True)
class Options:
    """What is explained, and how much of it is drawn."""

    only: Sequence[str] = ()
    held_out: bool = False
    """Only patients of the parts that the run's figures are of."""
    top: int = TOP
    grad_cam: bool = True
    checks: bool = True
    device: str = "auto"
    allow_other_windows: bool = False
    target: Target = "risk"
    workers: int = 1
    """Processes that draw; up to 1: in this process."""


def write_explanations(
    run: Path,
    place: Place,
    out: Path,
    settings: Settings,
    options: Options,
    *,
    tables: dict[str, Path] | None = None,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Write `out`: a folder a patient, `index.html`, `explanations.parquet`, the checks and, last, `explain.json`.

    Everything is written beside `out` and moved there at the end. A folder with earlier explanations is replaced.

    Args:
        settings: section `embed` names the backbone's weights for Grad-CAM, where the store does not, and
            `tiles.geojson_origin` where GeoJSON counts from.
        progress: called with how many patients are done, and of how many; first all, then those of the checks.

    Returns:
        What explain.json says.

    Raises:
        ConfigError: `out` holds something else, or weights that are not the run's.
        FitError: no finished run, a store that does not fit it, or an unknown patient.
        InputError, StoreError: weights or parts of the store that cannot be read.
    """
    from ...fusion.explain import Explainer
    from ...stores.records import Store

    _check_free(out)
    explainer = Explainer(
        run,
        place,
        device=options.device,
        tables=tables,
        allow_other_windows=options.allow_other_windows,
        target=options.target,
    )
    store = Store.open(place)
    chosen = explainer.find(options.only, only_held_out=options.held_out)
    backbone = _backbone(explainer, store, settings, options)
    out = out.resolve()
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.parent / f".{out.name}.unfinished"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    try:
        said = _write(aside, explainer, store, chosen, backbone, settings.tiles, options, progress)
        if out.exists():
            shutil.rmtree(out)
        aside.rename(out)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    return said


def _check_free(out: Path) -> None:
    from ...errors import ConfigError
    from ...fusion.explained import FILE

    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / FILE).is_file())):
        raise ConfigError(f"{out}: is not empty and holds no explanations; choose another folder")


def _backbone(explainer: Explainer, store: Store, settings: Settings, options: Options) -> Backbone | None:
    """The backbone for Grad-CAM; none where it is not asked for, or no model reads CT."""
    if not options.grad_cam or not any(
        m.name == "radiology" and m.feature_width for m in explainer.members[0].run.layout.modalities
    ):
        return None
    from .lesions import backbone_of_run

    return backbone_of_run(explainer, store, settings, explainer.device.type)


def _write(
    out: Path,
    explainer: Explainer,
    store: Store,
    chosen: Sequence[str],
    backbone: Backbone | None,
    tiles: TilesSettings,
    options: Options,
    progress: Callable[[int, int], None],
) -> dict[str, Any]:
    from ...fusion.checkpoint import write_json
    from ...fusion.explained import FILE, VERSION, checks_as_json, wording_of
    from .drawing import draw
    from .patient import Drawing, names_of, table_rows

    rows, largest_gap, largest_share, omics = [], 0.0, 0.0, False
    drawing = Drawing(store, tiles, *names_of(explainer.packed), options.top, _drawn_at_random(backbone))
    jobs = _jobs(out, explainer, store, chosen, backbone)
    with _Table(out / "explanations.parquet") as table:
        for number, (job, page) in enumerate(draw(jobs, drawing, min(options.workers, len(chosen)))):
            explained = job.explained
            table.add(explained.patient, list(table_rows(explained, drawing)))
            rows.append(_index_row(explained, job.folder.name, page))
            gap, difference = explained.completeness
            omics = omics or bool(explained.omics)
            largest_gap = max(largest_gap, gap)
            largest_share = max(largest_share, gap / difference if difference else 0.0)
            progress(number + 1, len(chosen))
    checks = explainer.check(progress=progress) if options.checks else None
    said = {
        "version": VERSION,
        "of": explainer.target,
        "weights": explainer.digests,
        "store_digest": explainer.packed.key,
        "patients": {row["patient"]: row["folder"] for row in rows},
        "grad_cam": backbone is not None,
        "completeness": {"largest_gap": largest_gap, "largest_relative_gap": largest_share} if omics else None,
        "checks": None if checks is None or not checks.curves else checks_as_json(checks),
    }
    if said["checks"] is not None and checks is not None:
        _write_curves(out, checks, wording_of(said))
    _write_index(out, rows, said)
    write_json(out / FILE, said)
    return said


def _jobs(
    out: Path, explainer: Explainer, store: Store, chosen: Sequence[str], backbone: Backbone | None
) -> Iterator[Job]:
    """The chosen patients, explained as they are asked for."""
    from .drawing import Job
    from .lesions import lesion_maps
    from .patient import folder_name

    for number, patient in enumerate(chosen):
        explained = explainer.explain(patient)
        lesions = None if backbone is None else lesion_maps(store, explained, backbone, explainer.average_lesion)
        yield Job(out / folder_name(patient, number), explained, lesions)


def _drawn_at_random(backbone: Backbone | None) -> bool:
    return backbone is not None and backbone.weights_name.startswith("random:")


def _index_row(explained: Explained, folder: str, page: Page) -> dict[str, Any]:
    names = {"both": "slides and CT", "pathology": "slides", "radiology": "CT", "none": "none"}
    labels = {1: "responder", 0: "non-responder", None: "unknown"}
    return {
        "patient": explained.patient,
        "folder": folder,
        "thumbnail": f"{folder}/{page.thumbnail}" if page.thumbnail else "",
        "centre": explained.centre,
        "part": explained.part,
        "imaging": names[explained.modalities],
        "risk": explained.risk,
        "probability": explained.probability,
        "label": labels[explained.label],
        "models": explained.models,
        "bag": page.bags[0]["effect"] if page.bags else None,
    }


class _Table:
    """explanations.parquet, a row group a patient, so that memory does not grow with the cohort."""

    def __init__(self, path: Path) -> None:
        import pyarrow.parquet as pq

        from ...stores.specs import EXPLANATIONS

        self._schema = EXPLANATIONS.schema()
        self._writer = pq.ParquetWriter(path, self._schema, compression="zstd")

    def __enter__(self) -> _Table:
        return self

    def __exit__(self, *_: object) -> None:
        self._writer.close()

    def add(self, patient: str, rows: Sequence[tuple[str, str, str, float]]) -> None:
        """The rows of one patient: kind, item, name, value."""
        import pyarrow as pa

        columns = [[patient] * len(rows), *(list(column) for column in zip(*rows, strict=True))]
        self._writer.write_table(pa.table(columns, schema=self._schema))


def _write_curves(out: Path, checks: Checks, wording: Wording) -> None:
    from ...fusion.deletion import Curve
    from .pictures import write_curves

    write_curves(out / "deletion.png", checks.curves, wording)
    with (out / "deletion.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([entry.name for entry in fields(Curve)])
        for curve in checks.curves:
            writer.writerow(["" if isinstance(v, float) and math.isnan(v) else v for v in asdict(curve).values()])


def _write_index(out: Path, rows: Sequence[dict[str, Any]], said: dict[str, Any]) -> None:
    from ...fusion.explained import says, wording_of
    from ...pages.rendering import SORTING, render
    from ...pages.terms import IMPORTANCE
    from .patient import power, signed

    page = render(
        __package__,
        "index.html.jinja",
        scripts=[SORTING],
        files=True,
        rows=sorted(rows, key=lambda row: -row["risk"]),
        said=said,
        wording=wording_of(said),
        sentences=says(said),
        terms=IMPORTANCE,
        signed=signed,
        power=power,
    )
    (out / "index.html").write_text(page, encoding="utf-8")


# --- the command ------------------------------------------------------------------------------------------


def explain(
    run: RunFolder,
    store: StoreFolder,
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder to write; RUN/explain shows in the report.")],
    only: Annotated[
        list[str] | None, typer.Option(metavar="PATIENT", help="Only this patient; may be repeated.")
    ] = None,
    held_out: Annotated[
        bool, typer.Option("--held-out", help="Only patients that the run's figures are of, not those of training.")
    ] = False,
    of: Annotated[
        Literal["risk", "response"],
        typer.Option(help="The output that is explained: log hazard, or log odds of response."),
    ] = "risk",
    top: Annotated[int, typer.Option(min=1, metavar="N", help="Most important bags shown as pictures.")] = TOP,
    no_grad_cam: Annotated[
        bool, typer.Option("--no-grad-cam", help="Leave out Grad-CAM, which needs the backbone's weights.")
    ] = False,
    no_checks: Annotated[
        bool, typer.Option("--no-checks", help="Leave out the checks over the held-out patients.")
    ] = False,
    config: ConfigFile = None,
    assignments: Assignments = None,
    workers: Workers = None,
    device: Device = "auto",
    table: Tables = None,
    allow_other_windows: OtherWindows = False,
    as_json: AsJson = False,
    verbose: Verbose = False,
) -> None:
    """Show what predictions rest on: maps over slides and lesions, report items, omics features; and check them.

    Reads RUN and STORE, no slide or CT; writes OUT/index.html with a page, pictures and GeoJSON for each patient,
    OUT/explanations.parquet with all numbers, and whether they mean something (deletion.csv, explain.json). Returns 0,
    or 2 when the store does not fit the run, or the backbone's weights are not those that the run was trained with.
    """
    from ...config import load_settings
    from ...fusion.explained import says
    from ..terminal import item_bar

    set_up_logging(verbose)
    options = Options(
        only=tuple(only or ()),
        held_out=held_out,
        top=top,
        grad_cam=not no_grad_cam,
        checks=not no_checks,
        device=device,
        allow_other_windows=allow_other_windows,
        target=of,
        workers=worker_count(workers),
    )
    settings = load_settings(config, assignments or ())
    with item_bar("explain") as bar:
        said = write_explanations(run, store, out, settings, options, tables=table_files(table), progress=bar)
    if as_json:
        typer.echo(json.dumps(said))
        return
    for line in says(said):
        typer.echo(line)
    count = len(said["patients"])
    typer.echo(f"{count} patient{'s' if count != 1 else ''}: {out / 'index.html'}")
