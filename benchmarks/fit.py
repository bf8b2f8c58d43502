"""What an epoch of training costs: against one through the CNN, against reading the store, and where it goes."""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
from torch.nn import functional

from mumo.config import Settings, SplitSettings
from mumo.fusion import members, model, train
from mumo.fusion.dataset import Batch
from mumo.stores import arrays, specs, tables
from mumo.stores.packed import Packed
from mumo.stores.records import Store

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests" / "support"))

PATIENTS, VALIDATION, BAGS, LESIONS, WORDS, WIDTH = 215, 54, 10, 4, 64, 1280
REPEATS = 3
CNN_WORDS = 32
STORE_WORKERS = 2
MATRIX = ("aten::mm", "aten::addmm", "aten::addmm_", "aten::bmm", "scaled_dot_product")
SEEDS, SEED_EPOCHS = 10, 20
STACKED = 10


def cohort() -> Packed:
    """215 training patients and 54 that validate, with exactly 10 bags of 64 words and 4 lesions each."""
    from packs import make_packed

    count = PATIENTS + VALIDATION
    packed = make_packed(count, missing=False, width=WIDTH, words=2, views=5, omics=736, bags=1, lesions=1)
    rng = np.random.default_rng(0)
    units = {}
    for name, per, middle in (("pathology", BAGS, WORDS), ("radiology", LESIONS, 5)):
        own, total = packed.units[name], count * per
        features = rng.standard_normal((total, middle, WIDTH), dtype=np.float32).astype("float16")
        units[name] = dataclasses.replace(
            own,
            features=features,
            offsets=np.arange(count + 1, dtype="int64") * per,
            classes=np.repeat(own.classes, per),
            word_classes=rng.integers(-1, 4, (total, middle if name == "pathology" else 0)).astype("int8"),
            omics=rng.standard_normal((total, own.omics.shape[1]), dtype=np.float32),
            omics_known=np.ones(total, dtype=bool),
            sources=np.repeat(own.sources, per),
            names=np.tile(np.arange(per), count).astype(str),
        )
    return dataclasses.replace(packed, units=units)


class Epochs:
    """One model, trained epoch after epoch on one cohort."""

    def __init__(self, packed: Packed) -> None:
        share = VALIDATION / (PATIENTS + VALIDATION)
        self.settings = Settings()
        fit = self.settings.fit.model_copy(update={"split": SplitSettings(test=0.0, validation=share)})
        self.settings = self.settings.model_copy(update={"fit": fit})
        self.prepared = train.prepare(packed, self.settings)
        self.model = train.MuMo(self.prepared.layout, self.settings.model)
        self.stepper = train.Stepper(self.model, self.prepared, self.settings, torch.device("cpu"))

    def batches(self, seed: int = 0) -> Iterator[Batch]:
        """The batches of an epoch."""
        return self.prepared.dataset.training_batches(
            self.prepared.patients("train"), size=32, bags=BAGS, lesions=LESIONS, rng=np.random.default_rng(seed)
        )

    def run(self, batches: Any = None) -> float:
        """Seconds of an epoch."""
        began = time.perf_counter()
        self.model.train()
        for number, batch in enumerate(self.batches() if batches is None else batches):
            self.stepper.step(batch, 0, number)
        return time.perf_counter() - began

    def validate(self) -> float:
        """Seconds of validation."""
        began = time.perf_counter()
        train.validate(
            self.model, self.prepared.dataset, self.prepared.patients("validation"), self.settings.fit,
            torch.device("cpu"),
        )  # fmt: skip
        return time.perf_counter() - began


def best(measure: Callable[[], float], repeats: int = REPEATS) -> float:
    """The shortest of several measurements, after one that does not count."""
    measure()
    return min(measure() for _ in range(repeats))


def through_the_cnn() -> float:
    """Seconds of the words of one epoch through MnasNet, forward and backward, from a few of them."""
    from torchvision.models import mnasnet1_0

    network = mnasnet1_0(weights=None).train()
    words = torch.rand(CNN_WORDS, 3, 256, 256)

    def once() -> float:
        began = time.perf_counter()
        network(words).sum().backward()
        return time.perf_counter() - began

    return best(once, 2) * PATIENTS * BAGS * WORDS / CNN_WORDS


class FromStore(torch.utils.data.Dataset):
    """The same batches, read from a store in the worker: of each patient the Zarr groups with deep features and the
    Parquet files with omics, each opened and read once a batch."""

    def __init__(self, epochs: Epochs, store: Store) -> None:
        self.epochs, packed = epochs, epochs.prepared.packed
        self.drawn = list(epochs.batches())
        self.places = {
            name: [
                (store.part("embed", item, "features.zarr"), store.part("radiomics", item, "features.parquet"))
                for item in units.sources[units.offsets[:-1]].tolist()
            ]
            for name, units in packed.units.items()
        }

    def __len__(self) -> int:
        """Steps of an epoch."""
        return len(self.drawn)

    def __getitem__(self, number: int) -> Batch:
        """One batch. Which bag of a patient it is does not matter for the time."""
        batch = self.drawn[number]
        imaging = {}
        for name, spec in (("pathology", specs.WORD_FEATURES), ("radiology", specs.LESION_FEATURES)):
            own, columns = batch.imaging[name], self.epochs.prepared.packed.units[name].omics_columns
            features, omics = torch.empty_like(own.features), torch.empty_like(own.omics)
            for row, patient in enumerate(batch.patients.tolist()):
                zarr_place, table_place = self.places[name][patient]
                read = np.asarray(arrays.open_array(arrays.open_group(zarr_place), spec)[:])
                mine = torch.nonzero(own.owner == row)[:, 0]
                found = torch.from_numpy(read.reshape(-1, *own.features.shape[1:]))
                features[mine] = found[torch.arange(len(mine)) % len(found)]
                table = tables.read_table(table_place, specs.OMICS).select(list(columns))
                values = np.stack([column.to_numpy() for column in table.columns], axis=1)
                scaled = self.epochs.prepared.scalers[name](values)
                omics[row] = torch.from_numpy(scaled[np.arange(omics.shape[1]) % len(scaled)])
            imaging[name] = dataclasses.replace(own, features=features, omics=omics)
        return dataclasses.replace(batch, imaging=imaging)


def from_store(epochs: Epochs, folder: Path) -> tuple[float, float, float]:
    """Seconds of an epoch fed by a DataLoader with workers that read the store; of its batches alone; and of the
    batches alone from the pack."""
    from packs import write_store

    data = FromStore(epochs, write_store(folder / "store", epochs.prepared.packed))

    def loader() -> Any:
        return torch.utils.data.DataLoader(data, batch_size=None, num_workers=STORE_WORKERS)

    def seconds(batches: Any) -> float:
        began = time.perf_counter()
        for _ in batches:
            pass
        return time.perf_counter() - began

    fed = min(epochs.run(iter(loader())) for _ in range(2))
    return fed, min(seconds(loader()) for _ in range(2)), min(seconds(epochs.batches()) for _ in range(3))


def outside_matrix_products(epochs: Epochs) -> tuple[float, list[tuple[str, float]]]:
    """Share of a step's time outside matrix products, and the largest shares."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
        epochs.run()
    averages = profiler.key_averages()
    total = sum(entry.self_cpu_time_total for entry in averages)
    shares = sorted(((entry.key, entry.self_cpu_time_total / total) for entry in averages), key=lambda s: -s[1])
    inside = sum(share for name, share in shares if any(name == m or m in name[6:] for m in MATRIX))
    return 1 - inside, shares[:8]


def first_step() -> float:
    """Seconds from a fresh interpreter to the end of the first step of a small model."""
    code = (
        "import sys; sys.path.insert(0, 'tests/support'); from packs import make_packed; import torch, numpy as np; "
        "from mumo.fusion import train; from mumo.config import Settings; s = Settings(); "
        "p = train.prepare(make_packed(40), s); m = train.MuMo(p.layout, s.model); "
        "t = train.Stepper(m, p, s, torch.device('cpu')); "
        "b = next(p.dataset.training_batches(p.patients('train'), size=32, bags=10, lesions=4, "
        "rng=np.random.default_rng(0))); t.step(b, 0, 0)"
    )
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).resolve().parents[1])
    return time.perf_counter() - began


def stacked(epochs: Epochs) -> tuple[float, float]:
    """Processor seconds of a step a model: one after another, and stacked by torch.func.vmap on the same batch.

    Of the pathology branch, where nearly all time goes, forward and backward on one thread. For vmap the gate's product
    is the plain one and dropout torch's own, as our kernels for both have no batching rule.
    """
    from torch.func import functional_call, grad, stack_module_state, vmap

    torch.set_num_threads(1)
    imaging = next(epochs.batches()).imaging["pathology"]
    plain = dataclasses.replace(imaging, features=imaging.features.float())
    branches = [copy.deepcopy(epochs.model.modalities[0].branch).train() for _ in range(STACKED)]

    def loss(encoded: Any) -> torch.Tensor:
        return encoded.vector.square().sum() + encoded.auxiliary["word"].square().mean()

    def one_after_another() -> float:
        began = time.process_time()
        for branch in branches:
            loss(branch(imaging)).backward()
            branch.zero_grad(set_to_none=True)
        return (time.process_time() - began) / STACKED

    own = best(one_after_another, 2)
    plain_dropout = mock.patch.object(
        model.Dropout, "forward", lambda self, x: functional.dropout(x, self.rate, self.training)
    )
    with plain_dropout, mock.patch.object(model._HalfLinear, "apply", functional.linear):
        parameters, buffers = stack_module_state(branches)
        shape = copy.deepcopy(branches[0])
        gradients = vmap(
            grad(lambda values, rest: loss(functional_call(shape, (values, rest), (plain,)))), randomness="different"
        )

        def together() -> float:
            began = time.process_time()
            gradients(parameters, buffers)
            return (time.process_time() - began) / STACKED

        return own, best(together, 2)


def many_seeds(folder: Path) -> tuple[float, float]:
    """Seconds of one short training, and of ten with different seeds side by side; each in processes of their own."""
    from packs import make_packed, write_store

    packed = make_packed(80, missing=False, width=WIDTH, words=WORDS, bags=4, lesions=3, omics=100)
    write_store(folder / "store", packed)
    base = Settings()
    split = train.prepare(packed, base).split

    def member(seed: int, epochs: int) -> members.Member:
        fit = base.fit.model_copy(update={"epochs": epochs, "bags_per_patient": BAGS, "seed": seed, "bootstrap": 10})
        return members.Member(f"seed-{seed}", base.model_copy(update={"fit": fit}), split)

    seconds = []
    for count in (1, SEEDS):
        began = time.perf_counter()
        jobs = [member(seed, SEED_EPOCHS) for seed in range(count)]
        # one process even for one training, so that start-up counts on both sides
        members.train_members(folder / "store", folder / f"run-{count}", jobs, device="cpu", own_processes=True)
        seconds.append(time.perf_counter() - began)
    return seconds[0], seconds[1]


def main() -> None:
    """Print seconds and ratios."""
    print(f"fit: {PATIENTS} patients × {BAGS} bags × {WORDS} words × {WIDTH}, {LESIONS} lesions; "
          f"{torch.get_num_threads()} threads")  # fmt: skip
    epochs = Epochs(cohort())
    epoch, validation = best(epochs.run), best(epochs.validate)
    minutes = 100 * (epoch + validation) / 60
    print(f"fit: an epoch {epoch:.2f} s, validation {validation:.2f} s; 100 epochs {minutes:.1f} min (target < 5)")
    outside, largest = outside_matrix_products(epochs)
    print(f"fit: {outside:.0%} of an epoch outside matrix products (target < 50 %)")
    for name, share in largest:
        print(f"  {name}: {share:.1%}")
    cnn = through_the_cnn()
    print(f"fit: an epoch's words through MnasNet {cnn:.0f} s, scaled from {CNN_WORDS}: "
          f"{cnn / best(epochs.run):,.0f} × (target ≥ 1,000)")  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        fed, from_zarr, from_pack = from_store(epochs, Path(folder))
        print(
            f"fit: fed from the store's Zarr and Parquet by {STORE_WORKERS} workers {fed:.2f} s an epoch: "
            f"{fed / best(epochs.run):.1f} × (target ≥ 10); the batches alone {from_zarr:.2f} s from the store, "
            f"{from_pack:.3f} s from the pack: {from_zarr / from_pack:.0f} ×"
        )
    print(f"fit: import and first step {first_step():.1f} s (target < 5)")
    own, together = stacked(epochs)
    print(
        f"fit: a step of a model {own:.3f} s of processor by itself, {together:.3f} s with {STACKED} stacked by vmap: "
        f"{together / own:.2f} ×"
    )
    with tempfile.TemporaryDirectory() as folder:
        one, ten = many_seeds(Path(folder))
        print(f"fit: one training {one:.0f} s, {SEEDS} seeds side by side {ten:.0f} s: {ten / one:.1f} × (target < 5)")
