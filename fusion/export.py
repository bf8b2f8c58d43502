"""A trained model as one ONNX file, for programs without PyTorch.

The file predicts one patient. Its inputs are what a store holds, before standardisation, which is inside:

    <modality>.features   [unit, word, width] float32    bags, or lesions with one word each
    <modality>.there      [unit] bool                    false for the one dummy unit of a patient without images
    <modality>.time       [1, 3] float32                 acquisition time, one-hot, zeros unknown
    <modality>.omics      [unit, column] float32         NaN missing; a table's rows stand here, too
    <group>               [1, classes] float32           codes of a report or of patient information, zeros unknown

Outputs are `probability` [1], `logits` [1, class] and `risk` [1]. The number of units is free.
"""

from __future__ import annotations

import json
import logging
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from ..errors import FitError
from .checkpoint import LoadedRun, load_run, write_atomically
from .dataset import INFORMATION, Batch, Dataset, ImagingBatch, ModalityLayout, OmicsScaler, report_group

OUTPUTS = ("probability", "logits", "risk")
OPSET = 20


def export_onnx(run: Path, out: Path) -> list[str]:
    """Write the model of a finished run as ONNX; returns the names of its inputs.

    Raises:
        FitError: no finished run, or the packages of mumo's extra `onnx` are missing.
    """
    try:
        import onnx
        import onnxscript  # noqa: F401, the exporter needs it and says so less clearly
    except ImportError as error:
        raise FitError(
            "export needs the packages of mumo's extra onnx; in your copy of mumo, run: pip install '.[onnx]'"
        ) from error
    loaded = load_run(run)
    alone = OnePatient(loaded).eval()
    example = alone.example()
    units = {m.name: torch.export.Dim(f"{m.name}_units") for m in loaded.layout.modalities if m.has_units}
    shapes = tuple(
        {0: units[name.rpartition(".")[0]]} if name.endswith((".features", ".there", ".omics")) else {}
        for name in alone.names
    )
    for name in ("torch.onnx", "onnxscript"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with warnings.catch_warnings():
        # features and omics of one modality have their number of units in common, which the exporter warns of
        warnings.filterwarnings("ignore", message="# The axis name")
        program = torch.onnx.export(
            alone,
            tuple(example),
            input_names=alone.names,
            output_names=list(OUTPUTS),
            dynamic_shapes=(shapes,),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    assert program is not None
    facts = {
        "threshold": loaded.info.get("threshold"),
        "weights_sha256": loaded.info["weights_sha256"],
        "windows_digest": loaded.info["windows_digest"],
        "omics_columns": {name: scaler.columns for name, scaler in loaded.scalers.items()},
        "codes": loaded.codes,
    }
    proto = program.model_proto
    onnx.helper.set_model_props(proto, {"mumo": json.dumps(facts)})
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(out, lambda file: onnx.save(proto, file))
    return alone.names


class Standardise(nn.Module):
    """`OmicsScaler` on tensors."""

    kept: Tensor
    median: Tensor
    scale: Tensor

    def __init__(self, scaler: OmicsScaler) -> None:
        super().__init__()
        kept = np.flatnonzero(scaler.kept)
        self.limit = scaler.limit
        self.register_buffer("kept", torch.from_numpy(kept))
        self.register_buffer("median", torch.from_numpy(scaler.median[kept]))
        self.register_buffer("scale", torch.from_numpy(scaler.scale[kept]))

    def forward(self, omics: Tensor) -> Tensor:
        """[unit, kept column] float32 of [unit, column]."""
        scaled = (omics.index_select(1, self.kept).double() - self.median) / self.scale
        missing = torch.isnan(scaled)
        cut = torch.where(missing, 0.0, scaled).clamp(-self.limit, self.limit)
        return cut.to(torch.float32)


class OnePatient(nn.Module):
    """The model for one patient, from plain tensors in the order of `names`."""

    def __init__(self, loaded: LoadedRun) -> None:
        super().__init__()
        self.model = loaded.model.eval()
        self.layout = loaded.layout
        self.columns = {m.name: len(loaded.scalers[m.name].columns) for m in loaded.layout.modalities}
        self.standardise = nn.ModuleDict({m.name: Standardise(loaded.scalers[m.name]) for m in self.layout.modalities})
        self.words = {name: int(count) for name, count in loaded.info.get("words", {}).items()}
        self.names = [name for m in self.layout.modalities for name in self._imaging_names(m)]
        self.groups = {report_group(m.name): m.report_widths for m in self.layout.modalities if m.report_widths}
        if self.layout.information_widths:
            self.groups[INFORMATION] = self.layout.information_widths
        self.names += list(self.groups)

    @staticmethod
    def _imaging_names(modality: ModalityLayout) -> list[str]:
        if not modality.has_units:
            return []
        parts = ["features"] * (modality.feature_width > 0) + ["there", "time"] + ["omics"] * (modality.omics_width > 0)
        return [f"{modality.name}.{part}" for part in parts]

    def example(self) -> list[Tensor]:
        """Inputs of a patient with three units of everything."""
        shapes: dict[str, tuple[int, ...]] = {}
        for m in self.layout.modalities:
            words = self.words.get(m.name, 1)
            shapes[f"{m.name}.features"], shapes[f"{m.name}.time"] = (3, words, m.feature_width), (1, 3)
            shapes[f"{m.name}.omics"] = (3, self.columns[m.name])
            shapes[f"{m.name}.there"] = (3,)
        shapes |= {group: (1, sum(widths)) for group, widths in self.groups.items()}
        return [
            torch.ones(3, dtype=torch.bool) if name.endswith(".there") else torch.rand(shapes[name])
            for name in self.names
        ]

    def forward(self, *values: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Probability of response [1], logits [1, class] and risk [1]."""
        given = dict(zip(self.names, values, strict=True))
        imaging = {m.name: self._imaging(m, given) for m in self.layout.modalities if m.has_units}
        codes = {group: given[group] for group in self.groups}
        known = {
            group: torch.stack([(part != 0).any(dim=1) for part in torch.split(codes[group], list(widths), 1)], dim=1)
            for group, widths in self.groups.items()
        }
        one = torch.zeros(1)
        output = self.model(Batch(one.long(), imaging, codes, known, one.long(), one.double(), one.bool()))
        probability = 1 - torch.softmax(output.logits, dim=1)[:, 0]
        return probability, output.logits, output.risk

    def _imaging(self, modality: ModalityLayout, given: dict[str, Tensor]) -> ImagingBatch:
        there = given[f"{modality.name}.there"]
        units = there.shape[0]
        features = given.get(f"{modality.name}.features", torch.zeros(0, 1, 0))
        omics, known = torch.zeros(units, 0), torch.zeros(units, dtype=torch.bool)
        if modality.omics_width:
            raw = given[f"{modality.name}.omics"]
            omics = self.standardise[modality.name](raw)
            known = there & ~torch.isnan(raw).all(dim=1)
        return ImagingBatch(
            features=features,
            rows=None,
            owner=torch.zeros(units, dtype=torch.int64),
            slots=torch.arange(units),
            mask=there[None],
            time=given[f"{modality.name}.time"],
            omics=omics[None],
            omics_mask=known[None],
            classes=torch.zeros(units, dtype=torch.int64),
            word_classes=torch.zeros(units, 0, dtype=torch.int64),
        )


def inputs_of(names: list[str], dataset: Dataset, patient: int) -> dict[str, npt.NDArray[Any]]:
    """The inputs of an exported model for one patient of a dataset (index in the pack)."""
    packed, found = dataset.packed, {}
    for name in names:
        modality, _, part = name.rpartition(".")
        if not modality:
            found[name] = np.ascontiguousarray(packed.codes[part].values[patient][None], dtype=np.float32)
            continue
        units = packed.units[modality]
        rows = slice(int(units.offsets[patient]), int(units.offsets[patient + 1]))
        count = rows.stop - rows.start
        if part == "time":
            found[name] = packed.times[modality][patient][None]
        elif part == "there":
            found[name] = np.ones(count, dtype=bool) if count else np.zeros(1, dtype=bool)
        else:
            array = units.features if part == "features" else units.omics
            values = np.asarray(array[rows], dtype=np.float32)
            if part == "features" and not units.has_words:
                values = values[:, :1]
            found[name] = values if count else np.zeros((1, *values.shape[1:]), dtype=np.float32)
    return found
