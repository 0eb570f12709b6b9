"""Every automatic choice, with its reason. What was asked is kept; what was left open (None) is decided here, once;
a resumed run reads the decisions and makes none."""

from __future__ import annotations

import math

import numpy as np
import torch

from fanlight import machine
from fanlight.config import Config
from fanlight.console import warn
from fanlight.data import augment, pack, source, split
from fanlight.data.manifest import Manifest
from fanlight.errors import ConfigError, DataError
from fanlight.parallel import layout as layouts
from fanlight.train import optim, precision, schedule

PHOTOS_WORTH = 15_000  # training images seen in a default run: minutes on two cores, seconds on a GPU
SMALL_WORTH = 20_000  # of small images, which cost less
EPOCHS_MIN, EPOCHS_MAX = 5, 40
EVALUATIONS_MAX = 20  # in a default run
PHOTO_PX = {"cpu": 96, "cuda": 128}  # default: where ResNet-18 on two cores is a matter of minutes
PHOTO_MODEL = "resnet18"
PHOTO_CROP, PHOTO_EVAL = (0.25, 1.0), 0.875
SMALL_CROP = (0.6, 1.0)
CORE_IMAGES_PER_S, GPU_IMAGES_PER_S = 100, 3_000  # what training consumes, roughly, where only its order matters
CPU_RANKS_MAX = 16  # that are chosen by themselves
SMALL_PX = 64  # up to here a stem that shrinks 4× leaves too little
MIRRORED_WORDS = {"left", "right"}  # classes whose meaning a mirror image changes


class Choices:
    """A config being completed, and why."""

    def __init__(self, config: Config, *, local_ranks: int | None = None):
        self.config = config
        self.local_ranks = local_ranks  # on this machine; None: all of them
        self.reasons: dict[str, str] = {}

    def take(self, key: str, value: object, reason: str) -> None:
        """Decides `section.field` when it was left open."""
        section, name = key.split(".")
        if getattr(getattr(self.config, section), name) is None:
            self.config = self.config.with_value(key, value)
            self.reasons[key] = reason


def check(config: Config) -> None:
    """Raises ConfigError for a value that cannot work on any data or machine: field, value, way out."""
    c = config
    positive = {
        "train.epochs": c.train.epochs, "train.batch_size": c.train.batch_size, "train.microbatches": c.train.microbatches,
        "train.evaluate_every": c.train.evaluate_every, "data.limit": c.data.limit, "data.image_px": c.data.image_px,
        "data.canvas_px": c.data.canvas_px, "execution.ranks": c.execution.ranks, "execution.threads": c.execution.threads,
        "execution.workers": c.execution.workers, "execution.eval_batch": c.execution.eval_batch,
        "execution.keep_checkpoints": c.execution.keep_checkpoints, "optim.lr": c.optim.lr,
        "execution.checkpoint_steps": c.execution.checkpoint_steps, "optim.clip_norm": c.optim.clip_norm,
    }  # fmt: skip
    for key, value in positive.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise ConfigError(f"{key} is {value}; it must be above 0")
    if c.optim.weight_decay is not None and not 0 <= c.optim.weight_decay < math.inf:
        raise ConfigError(f"optim.weight_decay is {c.optim.weight_decay}; it must be 0 or more")
    if not -(1 << 63) <= c.train.seed < 1 << 64:
        raise ConfigError(f"train.seed is {c.train.seed}; it must fit in 64 bits")
    crop = c.augment.crop_share
    if crop is not None and not 0 < crop[0] <= crop[1] <= 1:
        raise ConfigError(f"augment.crop_share is {crop}; it must be two shares, 0 < lowest ≤ highest ≤ 1")
    if not 0 < c.augment.crop_ratio[0] <= c.augment.crop_ratio[1]:
        raise ConfigError(f"augment.crop_ratio is {c.augment.crop_ratio}; it must be two ratios, lowest first")
    shares = {
        "augment.eval_share": (1.0 if c.augment.eval_share is None else c.augment.eval_share, 0, 1),
        "data.val_fraction": (c.data.val_fraction, 0, split.VAL_FRACTION_MAX),
        "optim.label_smoothing": (c.optim.label_smoothing, -1, 0.999),
        "optim.warmup_share": (c.optim.warmup_share, -1, 0.9), "optim.momentum": (c.optim.momentum, -1, 0.9999),
        "optim.beta2": (c.optim.beta2, -1, 0.999999),
    }  # fmt: skip
    for key, (value, above, most) in shares.items():
        if not above < value <= most or value < 0:
            bounds = f"above 0 and at most {most:g}" if above == 0 else f"from 0 to {most:g}"
            raise ConfigError(f"{key} is {value}; it must be a share {bounds}")
    if c.optim.name not in optim.NAMES:
        raise ConfigError(f"optim.name is {c.optim.name!r}; use one of {', '.join(optim.NAMES)}")
    if c.optim.schedule not in schedule.NAMES:
        raise ConfigError(f"optim.schedule is {c.optim.schedule!r}; use one of {', '.join(schedule.NAMES)}")
    place = device(c.execution.device)
    if c.execution.layout is not None:
        layouts.parse(c.execution.layout, ranks=c.execution.ranks or (1 if c.execution.layout == "serial" else 2))
    if min(c.augment.std) <= 0:
        raise ConfigError(f"augment.std is {c.augment.std}; pixels are divided by it, so each must be above 0")
    if c.data.order not in (None, "random", "blocks"):
        raise ConfigError(f"data.order is {c.data.order!r}; use random or blocks")
    if c.train.precision is not None:
        precision.check(c.train.precision, torch.device(place))
    if c.data.folds is None and c.data.fold:
        raise ConfigError(f"data.fold is {c.data.fold} and data.folds is not given; use --folds K --fold {c.data.fold}")
    if c.data.folds is not None and not 0 <= c.data.fold < c.data.folds:
        raise ConfigError(f"data.fold is {c.data.fold} of {c.data.folds} folds; use 0 … {c.data.folds - 1}")
    if c.model.pretrained and c.model.weights:
        raise ConfigError("model.pretrained and model.weights both name the weights to start from; use one of them")


def sizes(choices: Choices, manifest: Manifest) -> None:
    """What must be known before packing: the model's square and the stored canvas."""
    rows = manifest.rows()
    short = np.minimum(manifest.column("width")[rows], manifest.column("height")[rows])
    median = int(np.median(short))
    choices.take("execution.device", *_device())
    device = choices.config.execution.device or "cpu"
    if median >= PHOTO_PX[device]:
        reason = f"the default for photos on {device}; the images' median short side is {median} px"
        choices.take("data.image_px", PHOTO_PX[device], reason)
    else:
        px = max(16, -(-median // 8) * 8)
        choices.take("data.image_px", px, f"the images' median short side is {median} px")
    image_px = choices.config.data.image_px or 0
    if image_px <= SMALL_PX:
        choices.take("augment.crop_share", SMALL_CROP, f"{image_px} px images are cut close to their subject already")
        choices.take("augment.eval_share", 1.0, f"{image_px} px images are cut close to their subject already")
    choices.take("augment.crop_share", PHOTO_CROP, "the default for photos")
    choices.take("augment.eval_share", PHOTO_EVAL, "the default for photos: crops showed subjects larger in training")
    share = (choices.config.augment.crop_share or PHOTO_CROP)[0]
    reason = f"crops keep at least {share:g} of the area, so {image_px} px of detail remain in the smallest"
    choices.take("data.canvas_px", augment.canvas_px(image_px, crop_share_min=share), reason)


def order(choices: Choices, made: pack.Pack | None) -> None:
    """Random order where reads at random places are fast enough twice over, else shuffled blocks."""
    if made is None:
        choices.take("data.order", "random", "files are read one by one in any order")
    elif source.fits_in_memory(made):
        choices.take("data.order", "random", "the pack fits in memory")
    elif choices.config.data.order is None:
        gpus = torch.cuda.device_count() if choices.config.execution.device == "cuda" else 0
        needed = GPU_IMAGES_PER_S * gpus or CORE_IMAGES_PER_S * machine.cores_usable()
        rate = source.random_reads_per_s(made)
        words = f"the pack is larger than memory, and its disk reads {rate:,.0f} images/s at random places; "
        kind = "random" if rate >= 2 * needed else "blocks"
        choices.take("data.order", kind, f"{words}twice {needed:,.0f} are wanted (measured against a rule of thumb)")


def whole(choices: Choices, manifest: Manifest) -> None:
    """Everything else. Raises ConfigError where the parts cannot work together."""
    _machine(choices)
    _model(choices, manifest)
    _length(choices, manifest)
    _optimizer(choices)
    _fits_together(choices.config, manifest)


def who(choices: Choices, manifest: Manifest) -> None:
    """Who computes, where a resumed run has that open again. Raises ConfigError where it cannot work."""
    _machine(choices)
    _fits_together(choices.config, manifest)


def device(name: str | None) -> str:
    """The device to compute on: the one asked for, or a GPU where there is one. ConfigError for one that is not here."""
    if name not in (None, "cpu", "cuda"):
        raise ConfigError(f"execution.device is {name!r}; use cpu or cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise ConfigError("execution.device is 'cuda', and torch sees no GPU here; use --device cpu")
    return name or _device()[0]


def _device() -> tuple[str, str]:
    if torch.cuda.is_available():
        return "cuda", f"{torch.cuda.device_count()} GPU(s) visible"
    return "cpu", "no GPU visible"


def _machine(choices: Choices) -> None:
    execution = choices.config.execution
    cores, gpus = machine.cores_usable(), torch.cuda.device_count() if execution.device == "cuda" else 0
    if execution.layout is None and execution.ranks is None and gpus > 1:
        choices.take("execution.layout", "ddp", f"{gpus} GPUs are visible; --layout serial uses one")
        choices.take("execution.ranks", gpus, "one process per GPU")
    if execution.layout == "ddp":
        if gpus == 1 and execution.ranks is None:
            raise ConfigError(
                "layout ddp takes one GPU per rank, and 1 is visible; use --layout serial, or --device cpu"
            )
        ranks, why = max(2, gpus or cores), f"one process per {'GPU' if gpus else 'core'}"
        if not gpus and ranks > CPU_RANKS_MAX:
            ranks, why = CPU_RANKS_MAX, f"{cores} cores; more ranks would leave each too few images of a batch"
        choices.take("execution.ranks", ranks, why)
    several = (choices.config.execution.ranks or 1) > 1
    why = "more than one rank was asked for" if several else "one process uses all cores of a machine best"
    choices.take("execution.layout", "ddp" if several else "serial", why)
    choices.take("execution.ranks", 1, "layout serial")
    ranks = choices.config.execution.ranks or 1
    layouts.parse(choices.config.execution.layout or "", ranks=ranks)
    here = choices.local_ranks or ranks
    if gpus and here > gpus:
        raise ConfigError(
            f"execution.ranks is {ranks} and {gpus} GPU(s) are visible; use --ranks {gpus} or --device cpu"
        )
    if not gpus and here > 16 * cores:
        raise ConfigError(f"execution.ranks is {ranks} on {cores} usable cores; use --ranks {cores}")
    if not gpus and here > cores:
        warn(
            f"{here} ranks on {cores} usable cores",
            why="they take turns, so this is slower",
            do=f"Use --ranks {cores}",
        )
    choices.take("execution.threads", max(1, cores // here), f"{cores} usable cores over {here} rank(s)")
    workers = 1 if not gpus else max(1, min(8, cores // here - 1))
    choices.take(
        "execution.workers", workers, "cutting a crop takes 0.1 ms" if not gpus else "cores beside the GPU's own"
    )
    device = torch.device(choices.config.execution.device or "cpu")
    if choices.config.train.precision is None:
        choices.take("train.precision", *precision.fastest(device))
    choices.take("execution.channels_last", True, "convolutions are faster so, on CPUs and tensor cores")
    choices.take("execution.pack", True, "decoding once is cheaper than at every epoch")


def _model(choices: Choices, manifest: Manifest) -> None:
    image_px = choices.config.data.image_px or 0
    if image_px <= SMALL_PX:
        choices.take("model.name", "small-resnet", f"{image_px} px images are too small for stems that shrink them 4×")
    choices.take("model.name", PHOTO_MODEL, "the default for photos")
    numerals = all(name.isdigit() for name in manifest.classes)
    sided = [name for name in manifest.classes if MIRRORED_WORDS & set(name.lower().replace("_", " ").split())]
    if numerals:
        choices.take("augment.flip", False, "the classes are numerals, which a mirror changes")
    if sided:
        choices.take("augment.flip", False, f"class {sided[0]!r} means another side in a mirror")
    choices.take("augment.flip", True, "a mirrored photo shows the same class; --no-flip where it does not")


def _length(choices: Choices, manifest: Manifest) -> None:
    count = len(manifest.rows("train"))
    small = (choices.config.data.image_px or 0) <= SMALL_PX
    batch = (64 if small else 32) if count < 10_000 else 128 if count < 200_000 else 256
    batch = max(1, min(batch, count // 4))
    choices.take("train.batch_size", batch, f"{count} training images; it is global, over all ranks")
    worth = SMALL_WORTH if small else PHOTOS_WORTH
    epochs = min(EPOCHS_MAX, max(EPOCHS_MIN, round(worth / max(1, count))))
    choices.take("train.epochs", epochs, f"{count} training images: about {worth:,} seen, {EPOCHS_MIN} … {EPOCHS_MAX}")
    every = -(-(choices.config.train.epochs or 1) // EVALUATIONS_MAX)
    choices.take("train.evaluate_every", every, f"at most {EVALUATIONS_MAX} evaluations")


def _optimizer(choices: Choices) -> None:
    config = choices.config
    batch = config.train.batch_size or 1
    tuned = config.model.pretrained or config.model.weights is not None
    if config.optim.name == "sgd":
        lr = 0.05 * math.sqrt(batch / 32) * (0.2 if tuned and not config.model.freeze else 1)
        choices.take("optim.weight_decay", 5e-4, "the usual of SGD on small and middling sets")
    else:
        lr = 1e-3 * math.sqrt(batch / 64) * (0.1 if tuned and not config.model.freeze else 1)
        choices.take("optim.weight_decay", 0.05, "the usual of AdamW")
    kind = "fine-tuning" if tuned else "from scratch"
    choices.take("optim.lr", float(f"{lr:.3g}"), f"{config.optim.name}, {kind}, by the square root of batch {batch}")


def _fits_together(config: Config, manifest: Manifest) -> None:
    count = len(manifest.rows("train"))
    if not count:
        raise DataError(f"{config.data.path}: no usable training image; see `fanlight check {config.data.path}`")
    batch, microbatches, ranks = config.train.batch_size or 1, config.train.microbatches, config.execution.ranks or 1
    if batch > count:
        raise ConfigError(
            f"train.batch_size is {batch} and there are {count} training images; use --batch-size {count}"
        )
    if batch // microbatches < ranks:
        raise ConfigError(
            f"train.batch_size {batch} in {microbatches} microbatch(es) over {ranks} ranks leaves a rank without an image; "
            f"use --batch-size {ranks * microbatches} or more, or fewer --ranks"
        )
