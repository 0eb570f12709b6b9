"""What a run is asked to do. Frozen dataclasses, one comment per field (unit, meaning, what None means).

`Config` as asked goes to `config.yaml`; with every None decided and its reason it goes to `resolved.yaml`
(train/resolve.py). Every section but `execution` decides the numbers; `execution` decides only who computes them.
Order of precedence: defaults < recipe < --config < flags.
"""

import dataclasses
import hashlib
import json
import reprlib
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fanlight.errors import ConfigError, near

OPTIMIZERS = ("sgd", "adamw")  # of optim.name
AUDITS = ("exact", "quick", "thorough")  # of data.audit
POLICIES = ("none", "trivial", "rand")  # of augment.policy
ENGINES = ("cpu", "device")  # of augment.engine
MAGNITUDES = 30  # the highest of augment.rand_magnitude; 0 is the lowest, of both policies as published
PRECISIONS = ("fp32", "bf16", "fp16")  # of train.precision
BETA2 = 0.999  # of adamw, where nothing else is chosen
SECONDS = {"s": 1, "m": 60, "h": 3600}  # units that a time may be given in, as 90s or 1.5h
AUTO = {"train.batch_size": "train.batch_auto", "execution.layout": "execution.layout_auto"}
VERSION = 1  # of the config's keys; a run folder with a newer one is refused


@dataclass(frozen=True)
class Data:
    """Which images, in which splits, at which resolution."""

    path: str = ""  # folder, list file, or a built-in name such as `digits`
    val_fraction: float = 0.2  # share of the training images kept for validation where the data has no such split
    folds: int | None = None  # cross-validation: this many folds instead of val_fraction; None: one split
    fold: int = 0  # which of the folds is the validation set, 0 … folds-1
    limit: int | None = None  # images used in all, stratified by class and split; None: all
    image_px: int | None = None  # side of the square that the model sees; None: from the images' own size
    image_px_start: int | None = None  # side in the first epoch, from which it grows to image_px; None: always image_px
    canvas_px: int | None = None  # short side stored in the pack; None: image_px / sqrt(crop share), at most twice
    audit: str | None = None  # copies looked for first: exact (bytes), quick, thorough; None: as kept, or quick
    group_by: str | None = None  # rows kept together: a list file's column, or a regex on paths (its first group)
    sampling: str = "epoch"  # every image once per epoch; `balanced` by class; `weighted` by a column of the list
    order: str | None = None  # `random`, or `blocks` (shuffled 8 MB blocks, for slow disks); None: measured


@dataclass(frozen=True)
class Model:
    """Which network, from which weights."""

    name: str | None = None  # timm, torchvision or own name; None: by the image size
    pretrained: bool = False  # start from published weights (local cache, else hub)
    weights: str | None = None  # start from this .safetensors or .pt file; None: from the seed
    freeze: bool = False  # train the last layer only
    freeze_epochs: int = 0  # first epochs that train the last layer only; 0: everything from the first

    @property
    def freezes(self) -> bool:
        """Whether there are epochs in which only the last layer trains."""
        return self.freeze or self.freeze_epochs > 0


@dataclass(frozen=True)
class Augment:
    """Training-time changes to the pixels; evaluation sees a centre crop."""

    crop_share: tuple[float, float] | None = None  # share of the area that a random crop keeps; None: by image size
    crop_ratio: tuple[float, float] = (0.75, 4 / 3)  # width / height of a random crop
    flip: bool | None = None  # mirror left-right with probability 1/2; None: yes, unless the classes are digits
    eval_share: float | None = None  # share of the short side in the evaluation's centre crop; None: by image size
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # per channel, of pixels in [0, 1]
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    policy: str = "none"  # operations drawn per image: none, trivial (TrivialAugment Wide) or rand (RandAugment)
    rand_ops: int = 2  # of policy rand: operations per image
    rand_magnitude: int = 9  # of policy rand: strength of each, 0 … 30
    jitter: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)  # most: brightness, contrast, saturation, hue
    erase: float = 0.0  # probability that a rectangle of an image is erased
    mixup: float = 0.0  # alpha of the Beta that blends two images with; 0: no mixup
    cutmix: float = 0.0  # alpha of the Beta that shares two images' areas; 0: no cutmix. With mixup: either, half each
    mix_probability: float = 1.0  # of a pair of images being mixed at all, where mixup or cutmix is on
    engine: str | None = None  # where policy, jitter and erase run: cpu (input threads) or device; None: by device
    off: bool = False  # no change: evaluation's centre crop in training too; crop_share and crop_ratio are unused

    @property
    def mixes(self) -> bool:
        """Whether pairs of images are mixed: then the two rows of a pair stay on one rank."""
        return self.mixup > 0 or self.cutmix > 0

    @property
    def row_unit(self) -> int:
        """Rows that stay together wherever a batch is cut."""
        return 2 if self.mixes else 1

    @property
    def changes_pixels(self) -> bool:
        """Whether policy, jitter or erase is on."""
        return self.policy != "none" or any(self.jitter) or self.erase > 0


@dataclass(frozen=True)
class Caption:
    """Of images with sentences: which words are known, which sentences are trained on, how they are written."""

    min_count: int | None = None  # times that a word occurs in training captions to be known; None: by their number
    longest: int | None = None  # words of a caption that are trained on and written; None: all of 99 in 100 captions
    per_image: int | None = None  # captions of an image that an epoch trains on; None: up to 5, of small images 1
    window: int | None = None  # batches sorted by length together; 1: none; None: 32, of small images 1
    beams: int = 3  # sentences kept open while one is written; 1: always the likeliest word


@dataclass(frozen=True)
class Optim:
    """How weights move. Schedules count optimizer steps."""

    name: str = "adamw"  # or sgd (Nesterov momentum)
    lr: float | None = None  # peak learning rate; None: by optimizer and batch size
    unfrozen_lr_scale: float | None = None  # times lr, once model.freeze_epochs are over; None: by optimizer
    momentum: float = 0.9  # of sgd; beta1 of adamw
    beta2: float | None = None  # of adamw; None: .999, or by the network
    weight_decay: float | None = None  # on weights of 2 and more dimensions; None: by optimizer
    schedule: str = "cosine"  # cosine, onecycle, step, wsd (warm-up, stable, decay) or constant
    warmup_share: float = 0.1  # share of all steps in which the learning rate rises from 0
    step_shares: tuple[float, ...] = (0.5, 0.75)  # of schedule step: after which shares of all steps it drops
    step_gamma: float = 0.1  # of schedule step: factor of each drop
    decay_share: float = 0.2  # of schedule wsd: share of all steps, the last ones, in which the rate falls to 0
    outer_lr: float | None = None  # of diloco: share of the mean change that is taken; None: 0.7
    outer_momentum: float | None = None  # of diloco, Nesterov's; None: 0.9
    clip_norm: float | None = 1.0  # largest global gradient norm; None: no clipping
    label_smoothing: float = 0.1  # probability mass spread over all classes
    class_weights: str | None = None  # in the training loss: balanced, effective or name=weight,…; None: all equal

    @property
    def betas(self) -> tuple[float, float]:
        """Of adamw, as its optimizers take them."""
        return self.momentum, BETA2 if self.beta2 is None else self.beta2


@dataclass(frozen=True)
class Train:
    """How long, in what batches and number format."""

    epochs: int | None = None  # None: by their number (train/resolve.py), 5 … 40
    batch_size: int | None = None  # global: images per optimizer step over all ranks together; None: by data size
    batch_auto: bool = False  # a batch_size left open is measured: the knee of throughput within memory
    microbatches: int = 1  # parts of a batch whose gradients are summed before the optimizer moves
    precision: str | None = None  # fp32, bf16, fp16; None: what this processor does fastest
    compress_gradients: str | None = None  # bf16: ddp sends gradients in it, which rounds them; None: as they are
    sync_every: int | None = None  # of local-sgd and diloco: steps between two meetings of the ranks; None: 8
    time_limit_s: float | None = None  # seconds from Enter to the last metric, which epochs left open fill; None: none
    seed: int = 0  # of weights, split, order and augmentation
    evaluate_every: int | None = None  # epochs between evaluations; None: so that there are at most 20
    ema: float | None = None  # decay per step of the averaged weights that are evaluated and exported; None: no average
    patience: int | None = None  # evaluations in a row without a better val score that end the run; None: all epochs
    deterministic: bool = False  # deterministic algorithms on GPUs too (slower); CPU runs always are


@dataclass(frozen=True)
class Execution:
    """Who computes, and where things go. Changes nothing about the numbers beyond rounding, but for the layouts that are other
    algorithms: local-sgd, diloco, dataparallel."""

    layout: str | None = None  # as parallel/layout.py has them; None: ddp over all GPUs where several are, else serial
    layout_auto: bool = False  # a layout left open is planned: what is fastest here
    ranks: int | None = None  # processes; None: by layout
    pipeline_schedule: str | None = None  # gpipe, 1f1b, interleaved or sequential; None: 1f1b
    stages_per_rank: int | None = None  # of an interleaved pipeline; None: 1, interleaved 2
    bucket_mb: float | None = None  # of ddp's gradient buckets, in 2^20 bytes; None: fitted to the measured link
    split_at: tuple[str, ...] | None = None  # blocks after which a pipeline is cut; None: where measured costs balance
    device: str | None = None  # cpu or cuda; None: cuda where there is one
    threads: int | None = None  # compute threads per rank; None: usable cores over ranks
    workers: int | None = None  # input threads per rank; None: by device and cores
    backend: str | None = None  # of a network from scratch: loops, numpy, numba, torch, triton; None: torch computes
    channels_last: bool | None = None  # memory format of convolutions; None: yes
    compile: bool | None = None  # torch.compile of the training forward; None: no, unless autotune finds that it pays
    autotune: bool | None = None  # measure what is left open before training; None: where that pays back
    pack: bool | None = None  # decode once into a pack; None: yes where the disk has room
    pack_dir: str | None = None  # where packs go; None: the user's cache folder
    cache_features: bool | None = None  # compute what a frozen network says of an image once; None: where it can be
    recompute: bool = False  # forget activations in blocks, compute them again backward: less memory, more time
    eval_batch: int = 32  # rows of one evaluation forward, the same on any number of ranks
    checkpoint_every_s: float = 120.0  # seconds between checkpoints inside an epoch
    checkpoint_steps: int | None = None  # optimizer steps between checkpoints instead; None: by time
    keep_checkpoints: int = 2  # newest ones kept
    report: bool = True  # write report.html at the end


@dataclass(frozen=True)
class Config:
    """One run, whole."""

    version: int = VERSION  # of these keys
    data: Data = field(default_factory=Data)
    model: Model = field(default_factory=Model)
    augment: Augment = field(default_factory=Augment)
    caption: Caption = field(default_factory=Caption)
    optim: Optim = field(default_factory=Optim)
    train: Train = field(default_factory=Train)
    execution: Execution = field(default_factory=Execution)
    asked: frozenset[str] = field(default=frozenset(), compare=False, repr=False)  # keys ever set; not written down
    planned: dict[str, str] = field(default_factory=dict, compare=False, repr=False)  # a plan's reasons; likewise

    def with_value(self, key: str, value: object) -> "Config":
        """A copy with `section.field` set; strings are converted to the field's type. Unknown keys are ConfigErrors."""
        if key in AUTO and isinstance(value, str) and value.lower() == "auto":
            return self.with_values({key: None, AUTO[key]: True})
        section_name, _, name = key.partition(".")
        section = getattr(self, section_name, None)
        if not dataclasses.is_dataclass(section) or name not in _fields(type(section)):
            close = near(key, keys()) or f" Sections are {', '.join(dict.fromkeys(k.split('.')[0] for k in keys()))}."
            raise ConfigError(f"config key {key!r} is unknown.{close} The resolved.yaml of any run has all keys")
        converted = _convert(key, value, typing.get_type_hints(type(section))[name])
        changed: Any = dataclasses.replace(typing.cast(Any, section), **{name: converted})
        parts: Any = {section_name: changed, "asked": self.asked | {key}}
        return dataclasses.replace(self, **parts)

    def with_values(self, values: dict[str, object]) -> "Config":
        config = self
        for key, value in values.items():
            config = config.with_value(key, value)
        return config

    def document(self) -> dict[str, Any]:
        """Plain containers, as YAML and JSON take them."""
        parts = {name: part for name, part in dataclasses.asdict(self).items() if name not in ("asked", "planned")}
        return json.loads(json.dumps(parts))

    def hash(self, *, without: tuple[str, ...] = ()) -> str:
        """Names the mathematics: equal hashes on equal data train the same weights, whatever the layout. `without` keys that
        nobody had yet when a run began."""
        mathematics = {name: part for name, part in self.document().items() if name != "execution"}
        mathematics["data"] = {name: value for name, value in mathematics["data"].items() if name != "path"}
        for section, _, name in (key.partition(".") for key in without):
            del mathematics[section][name]
        return hashlib.sha256(json.dumps(mathematics, sort_keys=True).encode()).hexdigest()[:16]


def keys() -> list[str]:
    """Every `section.field`, in order."""
    hints = typing.get_type_hints(Config)
    sections = {name: kind for name, kind in hints.items() if name not in ("version", "asked", "planned")}
    return [f"{section}.{name}" for section, kind in sections.items() for name in _fields(kind)]


def from_document(document: object, *, where: str, under: Config | None = None) -> Config:
    """`under` (None: the defaults) with what nested plain containers say. `where` names the file in errors."""
    if not isinstance(document, dict):
        raise ConfigError(
            f"{where}: expected sections such as `train:` with fields below, got {type(document).__name__}"
        )
    version = document.get("version", VERSION)
    if version != VERSION:
        raise ConfigError(
            f"{where}: version {version!r} of the config; this Fanlight reads version {VERSION}. "
            "Use the Fanlight that wrote it, or train again"
        )
    config = under or Config()
    for section, fields in document.items():
        if section in ("version", "reasons"):
            continue
        if not isinstance(fields, dict):
            raise ConfigError(f"{where}: section {section!r} should hold fields, got {fields!r}")
        for name, value in fields.items():
            try:
                config = config.with_value(f"{section}.{name}", value)
            except ConfigError as error:
                raise ConfigError(f"{where}: {error}") from None
    return config


def read(path: Path, *, under: Config | None = None) -> Config:
    """`under` (None: the defaults) with what a YAML file says."""
    document = read_document(path)
    return from_document({} if document is None else document, where=str(path), under=under)


def read_document(path: Path) -> Any:
    """What a YAML file holds; ConfigError where it cannot be read."""
    import yaml

    try:
        return yaml.load(path.read_text(encoding="utf-8"), Loader=_loader())
    except OSError as error:
        raise ConfigError(f"cannot read config {path}: {error.strerror}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:  # ValueError: text of other bytes, a date of no month
        raise ConfigError(f"{path} is not YAML: {' '.join(str(error).split())}") from None


def write(path: Path, config: Config, *, reasons: dict[str, str] | None = None) -> None:
    """Writes YAML; with `reasons`, why each automatic choice fell as it did."""
    import yaml

    document = config.document()
    if reasons is not None:
        document["reasons"] = reasons
    path.write_text(yaml.safe_dump(document, sort_keys=False, allow_unicode=True), encoding="utf-8")


def _loader() -> type[Any]:
    """YAML's safe loader, which by itself would silently take the last of two equal keys."""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: Any, deep: bool = False) -> Any:
            names = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if twice := [name for name in names if names.count(name) > 1]:
                raise yaml.constructor.ConstructorError(None, None, f"{twice[0]!r} stands there twice", node.start_mark)
            return super().construct_mapping(node, deep=deep)

    return Loader


def _fields(kind: type) -> list[str]:
    return [item.name for item in dataclasses.fields(kind)]


def _convert(key: str, value: object, hint: Any) -> Any:
    """`value` as the type that the field's annotation names, or a ConfigError with field, value and expectation."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    is_none = value is None or (isinstance(value, str) and value.lower() in ("none", "null", "auto"))
    if is_none and type(None) in options:
        return None
    if value is None:
        raise ConfigError(f"{key} needs a value, got None")
    kind = next(option for option in options if option is not type(None))
    try:
        if typing.get_origin(kind) is tuple:
            parts = value.replace(",", " ").split() if isinstance(value, str) else list(typing.cast(list, value))
            kinds = typing.get_args(kind)
            if not parts or (kinds[-1] is not Ellipsis and len(parts) != len(kinds)):
                raise ValueError
            if kinds[0] is str:
                return tuple(_text(part) for part in parts)
            return tuple(_number(part, float) for part in parts)
        if kind is bool:
            return _truth(value)
        if kind is str:
            return _text(value)
        if key.endswith("_s") and isinstance(value, str) and value.strip()[-1:].lower() in SECONDS:
            if (seconds := _number(value.strip()[:-1], float) * SECONDS[value.strip()[-1:].lower()]) == float("inf"):
                raise ValueError
            return seconds
        return _number(value, kind)
    except UnicodeEncodeError:  # a path of other bytes cannot be written down
        raise ConfigError(
            f"{key} {value!r} is not UTF-8; rename it, or set a UTF-8 locale such as LANG=C.UTF-8"
        ) from None
    except (TypeError, ValueError, OverflowError):
        raise ConfigError(f"{key} should be {_expected(key, kind)}, got {_shown(value)}") from None


def _shown(value: object) -> str:
    """A value in a message: aliases make megabytes of a few lines of YAML."""
    short = reprlib.Repr()
    short.maxstring = short.maxother = short.maxlong = 500
    short.maxlevel, short.maxdict, short.maxlist, short.maxtuple = 3, 10, 10, 10
    return short.repr(value)


def _expected(key: str, kind: Any) -> str:
    """What a value of the field looks like, in words."""
    if typing.get_origin(kind) is tuple:
        kinds = typing.get_args(kind)
        count = "" if kinds[-1] is Ellipsis else f"{len(kinds)} "
        return f"{count}{'names' if kinds[0] is str else 'numbers'} with commas between"
    if key.endswith("_s"):
        return "a time such as 90s, 10m or 1.5h"
    if kind is float:
        return f"float, a finite number{' above 0' if key.endswith('lr') else ''}"
    return kind.__name__


def _text(value: Any) -> str:
    """A string that UTF-8 can hold."""
    if not isinstance(value, str):
        raise ValueError
    value.encode()
    return value


def _number(value: Any, kind: type[int] | type[float]) -> int | float:
    """`value` as an int or a float; yes and no are no numbers, 1.5 is no int, and nothing is NaN."""
    number = kind(value)
    if isinstance(value, bool) or number != number or (isinstance(value, float) and number != value):
        raise ValueError
    return number


def _truth(value: object) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).lower()
    if word in ("true", "yes", "on", "1"):
        return True
    if word in ("false", "no", "off", "0"):
        return False
    raise ValueError
