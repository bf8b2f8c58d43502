"""Every setting of mumo: frozen, validated, with its meaning beside it.

Settings come from the defaults below, then a TOML file (`--config FILE`), then single values
(`--set section.key=value`); the later wins. A stage's results depend on the settings of its own section,
which enter the fingerprint of each of its items; `run` and `fit` never make a stored feature stale.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from .errors import ConfigError

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
PositiveInt = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]

LESION_TYPES = ("stomach", "lymph node", "liver", "peritoneum", "spleen", "bone", "soft tissue", "adrenal", "other")
"""Lesion types that a cohort may use; the order is the code in stores."""

REGION_CLASSES = 4
"""Region classes of bags and words: 0 background or other, 1 HER2 0/1+/2+, 2 and 3 as the cohort file maps them."""


class Section(BaseModel):
    """A frozen group of settings; unknown keys are errors."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", use_attribute_docstrings=True, validate_default=True, allow_inf_nan=False
    )


class TissueSettings(Section):
    """How tissue is found on a thumbnail, for slides without annotations and for colour statistics."""

    thumbnail_mpp: PositiveFloat = 8.0
    """Resolution of the thumbnail, µm/px; slides that are coarser are read at their own resolution."""
    min_saturation: Fraction = 0.05
    """Lowest saturation (HSV) that can count as tissue, whatever Otsu's threshold says."""
    min_area_um2: PositiveFloat = 40_000.0
    """Connected pieces of tissue smaller than this are dropped, and holes smaller than this are filled."""
    min_brightness: Fraction = 0.15
    """Pixels with less brightness (HSV value) are no tissue: scanner black, ink, where saturation means nothing."""
    max_ink_saturation: Fraction = 0.5
    """More saturated pixels whose green exceeds their red are ink of a pen (blue, green), not tissue: no histological
    stain is both; red and brown ink cannot be told from stains."""
    fold_contrast: PositiveFloat = 4.0
    """Tissue whose saturation minus brightness exceeds the median of all tissue by this many robust standard
    deviations is folded over itself, and dropped."""
    max_white_saturation: Fraction = 0.3
    """White balance takes a light that is more saturated than this for tissue, and leaves such a slide as it is."""
    max_thumbnail_px: PositiveInt = 12_000_000
    """A thumbnail that would have more pixels is made at a coarser resolution instead; a limit of memory."""


class ColourSettings(Section):
    """Colour normalisation of bags."""

    method: Literal["reinhard", "none"] = "reinhard"
    """`reinhard` matches mean and standard deviation of each Lab channel to the target; `none` keeps the colours."""
    scope: Literal["bag", "slide"] = "bag"
    """Whose statistics are matched: each bag's own (the paper's) or the slide's (keeps contrast between bags)."""
    target_mean: tuple[float, float, float] = (65.0, 20.0, -12.0)
    """Mean of L, a, b (CIE 1976, D65) that normalised tissue gets; the built-in target, typical of H&E."""
    target_std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (14.0, 9.0, 7.0)
    """Standard deviation of L, a, b that normalised tissue gets."""
    target_image: Path | None = None
    """An image whose tissue gives the target's mean and standard deviation in place of the two settings above."""
    target_slide: str | None = None
    """Id of a slide of the cohort whose tissue gives the target, in place of the settings above."""
    sample_words: PositiveInt = 128
    """Words, spread evenly over the slide's bags, that the statistics of a whole slide are taken from."""
    min_tissue_share: Fraction = 0.01
    """Bags with a smaller share of tissue pixels keep their colours; there is nothing to measure."""

    @model_validator(mode="after")
    def _one_target(self) -> Self:
        if self.target_image is not None and self.target_slide is not None:
            raise ValueError("target_image and target_slide cannot both be given")
        return self


class TilesSettings(Section):
    """The `tiles` stage: slides to bags and words."""

    working_mpp: PositiveFloat = 0.5
    """Resolution at which bags are stored, µm/px."""
    bag_px: PositiveInt = 2048
    """Side of a bag at the working resolution, px."""
    word_px: PositiveInt = 256
    """Side of a word at the working resolution, px; must divide `bag_px`."""
    min_region_share: Fraction = 0.5
    """A bag is kept when at least this share of it lies inside the regions."""
    region_priority: Literal["highest", "lowest", "last"] = "highest"
    """Which class a pixel gets where regions of several classes overlap: highest, lowest, or last drawn."""
    mpp_tolerance: Fraction = 0.1
    """Largest relative difference between the resolution in the slide and the one in the cohort file."""
    on_mpp_mismatch: Literal["refuse", "warn"] = "refuse"
    """What happens when the two differ by more; `warn` uses the cohort file's."""
    geojson_origin: Literal["scanned", "level0"] = "scanned"
    """Where GeoJSON counts from on slides that name a scanned area (MIRAX, Leica SCN): its corner, as QuPath does, or
    the corner of level 0, as QuPath does with `--no-crop` and other programs do. Holds for files read and written."""
    max_upsampling: PositiveFloat = 1.25
    """A slide whose finest level is coarser than `working_mpp` by more than this factor is refused."""
    max_bags: PositiveInt = 20_000
    """A slide with more bags than this fails; a limit against wrong resolutions and hostile files."""
    max_pixels: PositiveInt = 100_000_000_000
    """A slide that declares more pixels at level 0 is refused before any is read."""
    max_annotation_bytes: PositiveInt = 100_000_000
    """An annotation file that is larger is refused before it is read."""
    max_annotation_vertices: PositiveInt = 1_000_000
    """An annotation file with more vertices is refused."""
    max_label_pixels: PositiveInt = 80_000_000
    """A label image with more pixels is refused before it is decoded."""
    region_step_px: PositiveInt = 8
    """Regions are looked up at one point in every square of this side, px at the working resolution; lowered to
    the next divisor of `word_px`."""
    pixels: Literal["zstd", "jpeg", "none"] = "zstd"
    """How pixels of bags are stored: `zstd` exactly, `jpeg` smaller but not exactly, `none` not at all: `embed` and
    `radiomics` then read the slides again, and get exactly what `zstd` would have given."""
    jpeg_quality: Annotated[int, Field(ge=1, le=100)] = 90
    """Quality of pixels stored as `jpeg`."""
    zstd_level: Annotated[int, Field(ge=1, le=19)] = 1
    """Compression level of pixels stored as `zstd`; on scanned tissue higher ones take more time and save nothing."""
    tissue: TissueSettings = TissueSettings()
    colour: ColourSettings = ColourSettings()

    @model_validator(mode="after")
    def _words_fill_the_bag(self) -> Self:
        if self.bag_px % self.word_px:
            raise ValueError(f"word_px = {self.word_px} must divide bag_px = {self.bag_px}")
        return self


class WindowsSettings(Section):
    """The `windows` stage: grey-level windows for each lesion type and centre."""

    low_percentile: Annotated[float, Field(ge=0, lt=50)] = 0.5
    """Percentile of the intensities inside the lesions that becomes the lower end of a window."""
    high_percentile: Annotated[float, Field(gt=50, le=100)] = 99.5
    """Percentile that becomes the upper end."""
    weighting: Literal["voxels", "lesions"] = "voxels"
    """Whether every voxel counts the same, so that large lesions dominate, or every lesion."""
    min_lesions: PositiveInt = 5
    """A (type, centre) pair with fewer lesions falls back to its type, a type with fewer to the whole cohort."""
    min_width_hu: PositiveFloat = 50.0
    """Windows narrower than this are widened around their middle."""
    split_file: Path | None = None
    """A split (`split.csv` of a run): windows are fitted on its training patients only."""
    table: Path | None = None
    """A `windows.parquet` of another store, taken as it is for new patients; nothing is fitted then."""


class SegmentationSettings(Section):
    """A network of the user's that segments lesions inside boxes without a mask."""

    network: Path | None = None
    """TorchScript (`.pt`, `.ts`) or ONNX (`.onnx`, with the extra `onnx`); none: threshold inside the box."""
    sha256: str | None = None
    """Expected SHA-256 of the file; TorchScript is a program and is refused without it."""
    input_size: tuple[PositiveInt, PositiveInt] | tuple[PositiveInt, PositiveInt, PositiveInt] = (96, 96, 96)
    """Voxels of a patch that the network takes: x, y for two dimensions, x, y, z for three."""
    spacing_mm: tuple[PositiveFloat, PositiveFloat] | tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (1, 1, 1)
    """Voxel size that it was trained at, as many numbers as `input_size`."""
    clip_hu: tuple[float, float] = (-1000.0, 1000.0)
    """Intensities are clipped to this range before they are normalised."""
    mean: float = 0.0
    """Subtracted from intensities, HU."""
    std: PositiveFloat = 1.0
    """What they are divided by then, HU."""
    output: Literal["logits", "probabilities"] = "logits"
    """What it returns; of logits, one class goes through a sigmoid, several through a softmax."""
    channel: Annotated[int, Field(ge=0)] = 0
    """Which class is the lesion."""
    threshold: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Lowest probability of a lesion's voxels."""

    @model_validator(mode="after")
    def _same_dimensions(self) -> SegmentationSettings:
        if len(self.input_size) != len(self.spacing_mm):
            raise ValueError("input_size and spacing_mm need as many numbers as each other")
        if self.clip_hu[0] >= self.clip_hu[1]:
            raise ValueError("clip_hu needs a low end below its high end")
        return self


class RoisSettings(Section):
    """The `rois` stage: CT lesions to three-slice crops, views and volumes for radiomics."""

    margin_mm: Annotated[float, Field(ge=0)] = 10.0
    """Margin around the lesion's box in the axial plane, mm."""
    crop_px: PositiveInt = 224
    """Side of the crop that the network sees, px."""
    keep_aspect: bool = False
    """False: the crop is stretched to a square (the paper's). True: the box is first widened to a square."""
    views: Annotated[int, Field(ge=0)] = 8
    """Augmented views stored for each lesion beside the plain one, for training."""
    max_rotation_deg: Annotated[float, Field(ge=0, le=180)] = 30.0
    """Views are rotated by up to this angle either way."""
    min_crop_scale: Annotated[float, Field(gt=0, le=1)] = 0.8
    """Views keep at least this share of the crop's side."""
    seed: int = 0
    """Seed of the views, together with patient, lesion and view."""
    volume_margin_mm: Annotated[float, Field(ge=0)] = 10.0
    """Margin around the lesion kept in the stored intensity volume (for filters of radiomics), mm."""
    fallback_threshold_hu: tuple[float, float] = (0.0, 200.0)
    """Range of intensities that the classical fallback mask keeps inside a box without a mask."""
    segmentation: SegmentationSettings = SegmentationSettings()
    geometry_tolerance_mm: PositiveFloat = 0.01
    """Largest difference of origin, spacing or corner between a volume and a mask that is taken as it is."""
    resample_tolerance_mm: Annotated[float, Field(ge=0)] = 0.5
    """A mask of another grid is resampled to the volume's where all outer corners are within this distance."""
    slice_tolerance: Fraction = 0.1
    """Largest distance of a slice of a DICOM series from its place on an even, straight grid, in voxels."""
    max_voxels: PositiveInt = 1_000_000_000
    """A volume with more voxels is refused before it is read."""


class EmbedSettings(Section):
    """The `embed` stage: words and lesion views through the backbone."""

    backbone: str = "mnasnet1_0"
    """Name of the network in the registry of `mumo.pipeline.networks.backbone`."""
    weights: str = "imagenet"
    """`imagenet` (torchvision's, checked by SHA-256), `random:SEED` (for demo and tests), or a file's path."""
    weights_sha256: str | None = None
    """Expected SHA-256 of a weights file; a `.pth` file is refused without it, `.safetensors` needs none."""
    batch_words: PositiveInt = 64
    """Words in one forward pass."""
    input_mean: tuple[float, float, float] | None = None
    """Mean of R, G, B (0–1) that is taken off the network's input; none: what timm publishes for its networks,
    ImageNet's for all others."""
    input_std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    """Standard deviation of R, G, B that the network's input is divided by; none: as for `input_mean`."""


class SlideOmicsSettings(Section):
    """Radiomics on bags."""

    size_px: PositiveInt = 1024
    """Side of the grey bag that features are computed on, px; the bag is area-averaged down to it."""
    grey: Literal["luma", "hematoxylin", "od"] = "luma"
    """Conversion to grey levels: `luma` = 0.299 R + 0.587 G + 0.114 B (ITU-R BT.601); `hematoxylin` = that stain after
    colour deconvolution, `od` = mean optical density of R, G, B, both in hundredths of optical density."""


class RadiomicsSettings(Section):
    """The `radiomics` stage: PyRadiomics features of bags and lesions."""

    engine: Literal["fast", "pyradiomics"] = "fast"
    """What computes them, with the same values: mumo's compiled kernels, or PyRadiomics. Parameters that the fast
    engine does not cover are left to PyRadiomics, and the store says so."""
    preset: Literal["mumo-736"] = "mumo-736"
    """Built-in PyRadiomics parameters, used where no parameter file is given."""
    parameter_file: Path | None = None
    """A PyRadiomics parameter file (YAML) that takes the place of the preset."""
    bin_width: PositiveFloat = 25.0
    """Width of a grey-level bin in the preset."""
    slide: SlideOmicsSettings = SlideOmicsSettings()
    lesion_resampled_mm: tuple[PositiveFloat, PositiveFloat, PositiveFloat] | None = None
    """Voxel size (x, y, z) that lesions are resampled to before features are computed; none: as they are."""
    max_matrix_mb: PositiveFloat = 2048.0
    """A bag or lesion whose grey-level matrices would take more memory than this gets no features but a reason."""
    max_seconds_hint: PositiveFloat = 600.0
    """A bag or lesion expected to take longer is still computed, but announced in the log."""


class ClinicalSettings(Section):
    """The `clinical` stage: reports and patient information to one-hot codes; labels and outcomes."""

    age_edge_years: float = 60.0
    """Ages up to this are the first class, above it the second."""
    start_year_edges: tuple[int, int, int, int] = (2007, 2012, 2017, 2024)
    """First years of the three periods of treatment start, and the first year after the last."""
    tenths: PositiveInt = 10
    """Number of equal classes for shares (TILs, tumour proportion); 1.0 falls in the top one."""
    max_metastatic_lesions: PositiveInt = 6
    """Highest count of metastatic lesions with a class of its own; more is an error."""
    disease_sites: PositiveInt = 13
    """Number of sites of disease in the multi-hot code."""
    lymph_node_sites: PositiveInt = 5
    """Number of lymph-node sites in the multi-hot code, `none` (0) included."""


class RunSettings(Section):
    """How work is run; never part of a fingerprint."""

    item_timeout_s: PositiveFloat = 3600.0
    """An item that takes longer is stopped and recorded as failed; not with `--workers 0`."""
    item_memory_mb: PositiveFloat | None = None
    """An item whose process has more resident memory than this is stopped and recorded as failed; none: no limit. Not
    with `--workers 0`."""
    max_attempts: PositiveInt = 3
    """How often an item is tried when its error is an input/output error, or its process was ended from outside."""
    retry_wait_s: PositiveFloat = 1.0
    """Wait before the second attempt; doubled before each further one."""
    source_hash: Literal["sample", "full", "stat"] = "sample"
    """What tells that a large source is another: size and first, middle, last MiB; the whole file; or size and time of
    change. Annotations, masks and tables are always hashed whole. Another choice makes what is stored stale."""
    lease_expiry_s: PositiveFloat = 120.0
    """Two runs on one store leave each other's items alone; those of a run that gives no sign for so long are free."""
    window: PositiveInt = 64
    """How many items are handed to a cluster ahead of the results; at least two for each of its threads."""
    embed_resource: str = ""
    """Resource (for example `GPU`) that a Dask worker must have for items of `embed`; empty: any worker."""
    worker_wait_s: PositiveFloat = 600.0
    """A run on a cluster ends with an error when there was no worker that may take its items for so long."""
    trusted_network: bool = False
    """Whether a scheduler on another machine may be used without TLS; see SECURITY.md before you say yes."""
    tls_ca_file: Path | None = None
    """Certificate authority (PEM) for a `tls://` scheduler; none: what Dask's own configuration says."""
    tls_cert: Path | None = None
    """Certificate (PEM) that mumo shows to the scheduler."""
    tls_key: Path | None = None
    """Key (PEM) of that certificate."""
    threads: PositiveInt = 1
    """Threads of native libraries inside one worker process."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where networks run; `auto` takes CUDA where there is one."""


class SplitSettings(Section):
    """How patients are divided for training."""

    validation: Fraction = 0.2
    """Share of patients that choose the weights."""
    test: Fraction = 0.2
    """Share of patients held out from training and every choice; 0: validation is held out alone, as in the paper."""
    file: Path | None = None
    """A CSV with columns `patient` and `part` (train, validation, test) that takes the place of drawing one."""
    seed: int = 0
    """Seed of the draw."""


class ModelSettings(Section):
    """MuMo's architecture; every ablation of the paper is one option away."""

    width: PositiveInt = 128
    """d, the width of every token."""
    heads: PositiveInt = 4
    """Heads of multi-head attention; must divide `width`."""
    feed_forward: PositiveInt = 256
    """Hidden width of feed-forward blocks."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.4
    """Dropout of attention and feed-forward blocks."""
    pooling_dropout: Annotated[float, Field(ge=0, lt=1)] = 0.2
    """Dropout of the attention pooling's weights."""
    modalities: tuple[str, ...] = ("pathology", "radiology")
    """Modalities that the model may use: `pathology`, `radiology`, and names of `fit.tables`."""
    classes: Annotated[int, Field(ge=2)] = 2
    """Classes of response; class 0 is no response, all others count as response where there must be two."""
    intra_fusion: Literal["parallel", "omics-report", "report-omics"] = "parallel"
    """How omics and report tokens meet the imaging vector: at once (the paper's), or one after the other."""
    inter_fusion: Literal["full", "product", "sum", "concatenation"] = "full"
    """How modalities meet: specific and agnostic parts (the paper's), or a plain operation."""
    alignment: bool = True
    """Whether agnostic parts of both modalities are pulled together by the contrastive loss."""
    omics: bool = True
    """Whether omics features are used."""
    reports: bool = True
    """Whether report items are used."""
    patient_information: bool = True
    """Whether patient information is used."""

    @model_validator(mode="after")
    def _heads_divide_the_width(self) -> Self:
        if self.width % self.heads:
            raise ValueError(f"heads = {self.heads} must divide width = {self.width}")
        return self


class FitSettings(Section):
    """Training."""

    epochs: PositiveInt = 100
    """E, the number of epochs."""
    batch_patients: PositiveInt = 32
    """Patients in a step."""
    bags_per_patient: PositiveInt = 10
    """Bags drawn a patient and step, with replacement; evaluation uses all."""
    lesions_per_patient: PositiveInt = 4
    """Lesions drawn a patient and step, with replacement; evaluation uses all."""
    omics_limit: PositiveFloat = 10.0
    """Standardised omics features are cut to ± this many interquartile ranges; outliers of some are far out."""
    learning_rate: PositiveFloat = 5e-4
    """Step size of Adam."""
    weight_decay: Annotated[float, Field(ge=0)] = 4e-6
    """Weight decay of Adam (added to the gradient)."""
    max_gradient_norm: PositiveFloat = 20.0
    """Gradients with a larger norm are scaled down to it."""
    focal_gamma: Annotated[float, Field(ge=0)] = 2.0
    """Focusing exponent of the focal losses."""
    survival_endpoint: Literal["os", "pfs", "none"] = "os"
    """Outcome of the Cox term; `none` leaves it out."""
    survival_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the Cox term."""
    alignment_weight: Annotated[float, Field(ge=0)] = 1.0
    """Weight of the alignment term."""
    alignment_temperature: PositiveFloat = 0.5
    """Temperature of the contrastive loss."""
    auxiliary_weight: Annotated[float, Field(ge=0)] = 0.1
    """λ at the start of training; it fades as 1 − exp(−5 (1 − e/E)²)."""
    schedule: Literal["constant", "cosine"] = "constant"
    """Step size over training: the same, or falling to zero along half a cosine."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs over which the step size first rises in a straight line."""
    class_weights: Literal["none", "balanced"] | tuple[PositiveFloat, ...] = "none"
    """Weights of the classes in the response loss: none, one over their frequency in training, or given."""
    precision: Literal["float32", "bfloat16", "float16"] = "float32"
    """Numbers of the forward pass in training (autocast); float16 needs CUDA. Weights and losses stay float32."""
    patience: Annotated[int, Field(ge=0)] = 0
    """Training stops after this many epochs without a new best one on validation; 0: never."""
    checkpoint_seconds: Annotated[float, Field(ge=0)] = 10.0
    """Shortest time between checkpoints that a killed training is resumed from; 0: after every epoch."""
    average_best: PositiveInt = 7
    """How many of the best epochs on validation are averaged into the final weights."""
    tables: dict[str, Path] = {}
    """Further modalities: name → a table (CSV or Parquet) with a column `patient` and numbers, one or more rows a
    patient, for example gene expression. List the name in `model.modalities`, too."""
    trackers: tuple[Literal["tensorboard", "mlflow"], ...] = ()
    """Where each epoch is logged besides history.jsonl; needs the packages of mumo's extra of that name."""
    bootstrap: PositiveInt = 2000
    """Bootstrap replicates for confidence intervals."""
    seed: int = 0
    """Seed of initial weights, draws and dropout."""
    split: SplitSettings = SplitSettings()


class Settings(Section):
    """All settings."""

    tiles: TilesSettings = TilesSettings()
    windows: WindowsSettings = WindowsSettings()
    rois: RoisSettings = RoisSettings()
    embed: EmbedSettings = EmbedSettings()
    radiomics: RadiomicsSettings = RadiomicsSettings()
    clinical: ClinicalSettings = ClinicalSettings()
    run: RunSettings = RunSettings()
    model: ModelSettings = ModelSettings()
    fit: FitSettings = FitSettings()


def load_settings(file: Path | None = None, assignments: Iterable[str] = ()) -> Settings:
    """Settings from the defaults, a TOML file and `section.key=value` assignments, the later winning.

    Values of assignments are read as TOML (`0.5`, `true`, `[1, 2]`); what is no TOML is taken as text.

    Raises:
        ConfigError: a file that cannot be read, an unknown key, or a value that is not accepted; all are named.
    """
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = tomllib.loads(file.read_text(encoding="utf-8"))
        except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise ConfigError(f"configuration {file}: cannot be read: {error}") from error
    for assignment in assignments:
        _assign(values, assignment)
    return parse_settings(values)


def parse_settings(values: Mapping[str, Any]) -> Settings:
    """Settings from nested mappings, as read from TOML or JSON; raises ConfigError naming every bad value."""
    try:
        return Settings.model_validate(values)
    except ValidationError as error:
        lines = "\n".join(
            f"  - {'.'.join(map(str, item['loc'])) or 'settings'}: {item['msg']} (found {item['input']!r})"
            for item in error.errors()
        )
        raise ConfigError(f"the configuration is not valid:\n{lines}") from error


def _assign(values: dict[str, Any], assignment: str) -> None:
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise ConfigError(f"--set {assignment}: expected section.key=value, for example tiles.working_mpp=0.5")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    *path, leaf = key.strip().split(".")
    node = values
    for part in path:
        child = node.setdefault(part, {})
        if not isinstance(child, dict):
            raise ConfigError(f"--set {assignment}: {part!r} is a value, not a section")
        node = child
    node[leaf] = value
