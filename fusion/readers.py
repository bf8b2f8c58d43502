"""Human readers against the model, on the patients that each of them judged.

The table has the columns `patient`, `reader`, and `call` (response or not) or `score` (higher means response), or both;
a row a patient and reader. A consultation of several readers is one more reader.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ..errors import FitError
from . import figures_quality, metrics
from .checkpoint import write_atomically, write_json
from .comparison import levene, mcnemar, paired_delong
from .estimates import Estimate, Numbers, numbers, proportion
from .runfiles import RunFiles, read_run

if TYPE_CHECKING:
    import pandas as pd

RESPONSE = ("1", "1.0", "true", "yes", "response", "responder")
NO_RESPONSE = ("0", "0.0", "false", "no", "no response", "non-responder")

HELD_OUT = ("test", "external", "validation")
"""Parts that readers are compared on, the first that the run has."""


@dataclass(frozen=True, eq=False)
class Reader:
    """What one reader said of the patients of a run's part, in their order."""

    name: str
    calls: Numbers
    """[patient] 1 response, 0 none, NaN where the reader did not say."""
    scores: Numbers
    """[patient] NaN where the reader gave none."""

    @property
    def best(self) -> Numbers:
        """[patient] the scores, or the calls of a reader who gave none."""
        return self.scores if np.isfinite(self.scores).any() else self.calls


def compare_readers(run: Path, table: Path, out: Path) -> list[dict[str, Any]]:
    """Compare readers with a finished run and write `readers.csv`, `readers.json` and `roc.svg` into `out`.

    Each reader is compared on the labelled patients of the held-out part whom the reader judged: calls by sensitivity,
    specificity and accuracy with McNemar's exact test against the model at its frozen threshold; scores (or calls) by
    AUC with the paired DeLong test; the stability of the AUCs by Levene's test on bootstrap replicates.

    Args:
        run: folder of a finished run.
        table: CSV of the readers.
        out: folder to write to. Where it is `readers` in the run's folder, the report shows it.

    Returns:
        A row a reader, nested as in `readers.json`.

    Raises:
        FitError: the table cannot be read, names unknown patients, or the run has no held-out part.
    """
    files = read_run(run)
    part = next((part for part in HELD_OUT if (files.predictions["part"] == part).any()), None)
    if part is None:
        raise FitError(
            f"{run}: expected held-out patients, found none; readers cannot be compared on training patients"
        )
    rows = files.rows(part)
    readers = read_readers(table, list(rows["patient"]), set(files.predictions["patient"]))
    found = [_against(reader, rows, files) for reader in readers]
    out.mkdir(parents=True, exist_ok=True)
    write_json(
        out / "readers.json", {"part": part, "auc": files.metrics["parts"][part]["auc"]["value"], "readers": found}
    )
    flat = _flat(found)
    write_atomically(out / "readers.csv", lambda file: flat.to_csv(file, index=False))
    drawing = roc(files, part, found)
    if drawing:
        write_atomically(out / "roc.svg", lambda file: file.write_text(drawing, encoding="utf-8"))
    return found


def read_readers(table: Path, patients: list[str], known: set[str]) -> list[Reader]:
    """The readers of a CSV, in the order of the file; patients of other parts are left out.

    Args:
        table: the file.
        patients: the patients that are judged, in the order of the result.
        known: every patient of the run; any other is an error.

    Raises:
        FitError: the table cannot be read or used.
    """
    import pandas as pd

    try:
        frame = pd.read_csv(table, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise FitError(f"readers {table.name}: cannot be read: {error}") from error
    if not {"patient", "reader"} <= set(frame.columns) or not {"call", "score"} & set(frame.columns):
        raise FitError(
            f"readers {table.name}: expected the columns patient, reader, and call or score, "
            f"found {list(frame.columns)}"
        )
    if strangers := sorted(set(frame["patient"]) - known):
        raise FitError(f"readers {table.name}: expected patients of the run, found {strangers[:5]}")
    if (twice := frame.duplicated(["patient", "reader"])).any():
        row = frame[twice].iloc[0]
        raise FitError(f"readers {table.name}: {row['reader']} judges patient {row['patient']} more than once")
    place = {patient: number for number, patient in enumerate(patients)}
    readers = []
    for name, rows in frame.groupby("reader", sort=False):
        values = {kind: np.full(len(patients), np.nan) for kind in ("call", "score")}
        for line, cells in zip(rows.index.tolist(), rows.to_dict("records"), strict=True):
            for kind, column in values.items():
                if cells["patient"] in place and cells.get(kind):
                    column[place[cells["patient"]]] = _value(cells[kind], kind, f"{table.name}, row {line + 2}")
        if not (np.isfinite(values["call"]) | np.isfinite(values["score"])).any():
            raise FitError(f"readers {table.name}: {name} judges no patient of the held-out part")
        readers.append(Reader(str(name), values["call"], values["score"]))
    return readers


def _value(text: str, kind: str, where: str) -> float:
    word = text.strip().lower()
    if kind == "call" and word in RESPONSE + NO_RESPONSE:
        return float(word in RESPONSE)
    try:
        value = float(word) if kind == "score" else np.nan
    except ValueError:
        value = np.nan
    if not np.isfinite(value):
        expected = "a number" if kind == "score" else "1 or 0, yes or no, response or no response"
        raise FitError(f"readers {where}: column {kind}: expected {expected}, found {text!r}")
    return float(value)


def _against(reader: Reader, rows: pd.DataFrame, files: RunFiles) -> dict[str, Any]:
    """One reader's figures and tests, as JSON takes them."""
    labels, probability = numbers(rows["label"]), numbers(rows["probability"])
    again = {"replicates": int(files.metrics["replicates"]), "seed": int(files.metrics["seed"])}
    judged = np.isfinite(reader.best) & ~np.isnan(labels)
    best, truth, model = reader.best[judged], labels[judged], probability[judged]
    spreads = {} if metrics.why_undefined(truth) else _spreads(truth, {"reader": best, "model": model}, again)
    stability = levene(list(spreads.values())) if spreads else Estimate(reason=metrics.why_undefined(truth))
    found: dict[str, Any] = {
        "reader": reader.name,
        "patients": int(judged.sum()),
        "responders": int(np.sum(truth == 1)),
        "kind": "score" if np.isfinite(reader.scores).any() else "call",
        "auc": metrics.auc_bootstrap(truth, best, **again).as_json(),
        "model_auc": metrics.auc_bootstrap(truth, model, **again).as_json(),
        "delong": paired_delong(truth, model, best).as_json(),
        "levene_p": stability.as_json(),
        "auc_spread": {name: float(values.std(ddof=1)) for name, values in spreads.items()},
    }
    own = files.calls[rows.index]
    called = np.isfinite(reader.calls) & ~np.isnan(labels) & ~np.isnan(own)
    if called.any():
        found["calls"] = _calls(labels[called], reader.calls[called], own[called])
    return found


def _spreads(truth: Numbers, scores: Mapping[str, Numbers], again: dict[str, int]) -> dict[str, Numbers]:
    return {name: metrics.auc_replicates(truth, values, **again) for name, values in scores.items()}


def _calls(labels: Numbers, reader: Numbers, model: Numbers) -> dict[str, Any]:
    """Sensitivity, specificity and accuracy of reader and model, with McNemar's test of model − reader."""
    found: dict[str, Any] = {}
    shares = {"sensitivity": labels == 1, "specificity": labels == 0, "accuracy": np.ones(len(labels), dtype=bool)}
    for name, chosen in shares.items():
        nobody = "nobody with this label among the judged patients"
        right = {"reader": (reader == labels)[chosen], "model": (model == labels)[chosen]}
        found[name] = {
            who: proportion(int(values.sum()), len(values), nobody).as_json() for who, values in right.items()
        }
        found[name]["mcnemar"] = mcnemar(right["model"].astype(float), right["reader"].astype(float)).as_json()
    return found


def roc(files: RunFiles, part: str, found: list[dict[str, Any]]) -> str | None:
    """ROC curve of the model with the readers' calls as points; none where a class is missing."""
    labels, probability = files.labels(part)
    known = ~np.isnan(labels)
    if metrics.why_undefined(labels[known]):
        return None
    points = [(row["reader"], row["calls"]) for row in found if "calls" in row]
    return figures_quality.readers(labels[known], probability[known], points, name=f"{part} patients, model")


def _flat(found: list[dict[str, Any]]) -> pd.DataFrame:
    """A row a reader, estimates as columns."""
    import pandas as pd

    rows = []
    for row in found:
        flat = {key: row[key] for key in ("reader", "patients", "responders", "kind")}
        for key in ("auc", "model_auc"):
            flat |= {key: row[key]["value"], f"{key}_low": row[key]["low"], f"{key}_high": row[key]["high"]}
        flat |= {"auc_difference": row["delong"]["difference"]["value"], "delong_p": row["delong"]["p"]}
        flat |= {f"{name}_auc_spread": value for name, value in row["auc_spread"].items()}
        flat["levene_p"] = row["levene_p"]["value"]
        for name, share in row.get("calls", {}).items():
            flat |= {f"{who}_{name}": share[who]["value"] for who in ("reader", "model")}
            flat[f"{name}_mcnemar_p"] = share["mcnemar"]["p"]
        rows.append(flat)
    return pd.DataFrame(rows)
