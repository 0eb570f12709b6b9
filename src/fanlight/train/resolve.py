"""Every automatic choice, with its reason. What was asked is kept; what was left open (None) is decided here, once;
a resumed run reads the decisions and makes none."""

from __future__ import annotations

import math

import numpy as np

from fanlight import console, machine, tasks
from fanlight.config import BETA2, Config
from fanlight.console import warn
from fanlight.data import augment, cache, pack, sampling, source
from fanlight.data.manifest import Manifest
from fanlight.errors import ConfigError, DataError
from fanlight.parallel import layout as layouts
from fanlight.tasks import class_weights
from fanlight.train import captioning, checks, devices, layouting, precision

PHOTOS_WORTH = 15_000  # training images seen in a default run: minutes on two cores, seconds on a GPU
SMALL_WORTH = 100_000  # of small images, which cost less
EPOCHS_MIN, EPOCHS_MAX = 5, 40
UNFROZEN = {"sgd": 0.2, "adamw": 0.1}  # share of the learning rate for weights that have learned something already
FEATURES_SHARE = 0.9  # of a free disk that features may take
EVALUATIONS_MAX = 20  # in a default run
PHOTO_PX = {"cpu": 96, "cuda": 128}  # default: where ResNet-18 on two cores is a matter of minutes
PHOTO_MODEL = "resnet18"
PHOTO_CROP, PHOTO_EVAL = (0.25, 1.0), 0.875
SMALL_CROP = (0.6, 1.0)
CORE_IMAGES_PER_S, GPU_IMAGES_PER_S = 100, 3_000  # what training consumes, roughly, where only its order matters
SMALL_PX = 64  # up to here a stem that shrinks 4× leaves too little
MIRRORED_WORDS = {"left", "right"}  # classes whose meaning a mirror image changes


class Choices:
    """A config being completed, and why."""

    def __init__(self, config: Config, *, local_ranks: int | None = None, local_cores: int | None = None):
        self.config = config
        self.local_ranks = local_ranks  # on this machine; None: all of them
        self.local_cores = (
            local_cores or machine.cores_usable()
        )  # of all those ranks; a launcher may have bound this one
        self.reasons: dict[str, str] = {}

    def take(self, key: str, value: object, reason: str) -> None:
        """Decides `section.field` when it was left open."""
        section, name = key.split(".")
        if getattr(getattr(self.config, section), name) is None:
            self.config = self.config.with_value(key, value)
            self.reasons[key] = reason

    def is_open(self, key: str) -> bool:
        """Whether `key` was decided here and not asked for."""
        return key in self.reasons

    def replace(self, key: str, value: object, reason: str) -> None:
        """Decides again, whoever decided before."""
        self.config = self.config.with_value(key, value)
        self.reasons[key] = reason

    def reopen(self, key: str) -> bool:
        """Takes back a choice made here, so that `take` makes it again; False where it was asked for."""
        if self.reasons.pop(key, None) is None:
            return False
        self.config = self.config.with_value(key, None)
        return True

    def change(self, key: str, value: object, reason: str) -> None:
        """Decides again what was left open, by a measurement; without a reason there was none, and nothing changes."""
        if reason and self.is_open(key):
            self.replace(key, value, reason)


def sizes(choices: Choices, manifest: Manifest) -> None:
    """What must be known before packing: the model's square and the stored canvas."""
    rows = manifest.rows()
    short = np.minimum(manifest.column("width")[rows], manifest.column("height")[rows])
    median = int(np.median(short))
    choices.take("execution.device", *devices.default())
    device = choices.config.execution.device or "cpu"
    if median >= PHOTO_PX[device]:
        reason = f"the default for photos on {device}; the images' median short side is {median} px"
        choices.take("data.image_px", PHOTO_PX[device], reason)
    else:
        px = max(16, -(-median // 8) * 8)
        choices.take("data.image_px", px, f"the images' median short side is {median} px")
    image_px = choices.config.data.image_px or 0
    if choices.config.augment.off:
        choices.take("augment.crop_share", (1.0, 1.0), "no augmentation: training sees the evaluation's centre crop")
    if manifest.is_captioned:
        captioning.sizes(choices, is_small=image_px <= SMALL_PX)
    if image_px <= SMALL_PX:
        choices.take("augment.crop_share", SMALL_CROP, f"{image_px} px images are cut close to their subject already")
        choices.take("augment.eval_share", 1.0, f"{image_px} px images are cut close to their subject already")
    choices.take("augment.crop_share", PHOTO_CROP, "the default for photos")
    choices.take("augment.eval_share", PHOTO_EVAL, "the default for photos: crops showed subjects larger in training")
    a = choices.config.augment
    share = (a.eval_share or PHOTO_EVAL) ** 2 if a.off else (a.crop_share or PHOTO_CROP)[0]
    reason = f"crops keep at least {share:.3g} of the area, so {image_px} px of detail remain in the smallest"
    choices.take("data.canvas_px", augment.canvas_px(image_px, crop_share_min=share), reason)


def order(choices: Choices, made: pack.Pack | None) -> None:
    """Random order where reads at random places are fast enough twice over, else shuffled blocks."""
    if made is None:
        choices.take("data.order", "random", "files are read one by one in any order")
    elif source.fits_in_memory(made):
        choices.take("data.order", "random", "the pack fits in memory")
    elif choices.config.data.order is None:
        gpus = devices.gpus_visible() if choices.config.execution.device == "cuda" else 0
        needed = GPU_IMAGES_PER_S * gpus or CORE_IMAGES_PER_S * machine.cores_usable()
        rate = source.random_reads_per_s(made)
        words = f"the pack is larger than memory, and its disk reads {rate:,.0f} images/s at random places; "
        kind = "random" if rate >= 2 * needed else "blocks"
        choices.take("data.order", kind, f"{words}twice {needed:,.0f} are wanted (measured against a rule of thumb)")


def whole(choices: Choices, manifest: Manifest) -> None:
    """Everything else. Raises ConfigError where the parts cannot work together."""
    _machine(choices)
    _model(choices, manifest)
    _features(choices, manifest)
    _length(choices, manifest)
    layouting.mathematics(choices)
    _optimizer(choices)
    _fits_together(choices, manifest)


def who(choices: Choices, manifest: Manifest) -> None:
    """Who computes, where a resumed run has that open again. Raises ConfigError where it cannot work."""
    _machine(choices)
    _fits_together(choices, manifest)


def _machine(choices: Choices) -> None:
    execution = choices.config.execution
    cores, gpus = choices.local_cores, devices.gpus_visible() if execution.device == "cuda" else 0
    if execution.layout is None and execution.ranks is None and gpus > 1:
        choices.take("execution.layout", "ddp", f"{gpus} GPUs are visible; --layout serial uses one")
        choices.take("execution.ranks", gpus, "one process per GPU")
    layouting.ranks(choices, gpus=gpus, cores=cores)
    several = (choices.config.execution.ranks or 1) > 1
    why = "more than one rank was asked for" if several else "one process uses all cores of a machine best"
    choices.take("execution.layout", "ddp" if several else "serial", why)
    choices.take("execution.ranks", 1, "layout serial")
    ranks = choices.config.execution.ranks or 1
    here = choices.local_ranks or ranks
    layouts.of(choices.config.execution, ranks=ranks, machines=ranks // here)
    layouting.check(choices.config)
    if gpus and here > gpus:
        raise ConfigError(
            f"execution.ranks is {ranks} and {gpus} GPU(s) are visible; use --ranks {gpus} or --device cpu"
        )
    devices.check_ranks(here, device=execution.device or "cpu")
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
    if choices.config.train.precision is None:
        import torch

        device = torch.device(choices.config.execution.device or "cpu")
        choices.take("train.precision", *precision.fastest(device))
    choices.take("execution.channels_last", True, "convolutions are faster so, on CPUs and tensor cores")
    choices.take(
        "execution.compile", False, "compiling takes a minute on CPUs; --compile, or --autotune where it repays"
    )
    choices.take("execution.pack", True, "decoding once is cheaper than at every epoch")


def _model(choices: Choices, manifest: Manifest) -> None:
    image_px = choices.config.data.image_px or 0
    if manifest.is_captioned:
        captioning.whole(choices, manifest, is_small=image_px <= SMALL_PX)
    if image_px <= SMALL_PX:
        choices.take("model.name", "small-cnn", f"{image_px} px images are too small for stems that shrink them 4×")
    choices.take("model.name", PHOTO_MODEL, "the default for photos")
    numerals = all(name.isdigit() for name in manifest.classes)
    sided = [name for name in manifest.classes if MIRRORED_WORDS & set(name.lower().replace("_", " ").split())]
    if choices.config.augment.off:
        choices.take("augment.flip", False, "no augmentation")
    if numerals:
        choices.take("augment.flip", False, "the classes are numerals, which a mirror changes")
    if sided:
        choices.take("augment.flip", False, f"class {sided[0]!r} means another side in a mirror")
    choices.take("augment.flip", True, "a mirrored photo shows the same class; --no-flip where it does not")
    if not choices.config.augment.changes_pixels:
        choices.take("augment.engine", "cpu", "nothing beyond crop and mirror is asked for")
    elif choices.config.execution.device == "cuda":
        choices.take("augment.engine", "device", "a GPU changes a whole batch at once, beside what input threads do")
    choices.take("augment.engine", "cpu", "input threads change images while the batch before is computed")


def _features(choices: Choices, manifest: Manifest) -> None:
    """Whether a frozen network is asked once about each image, or at every look."""
    c = choices.config
    if not c.model.freezes or c.execution.cache_features is not None:
        return
    key, px = "execution.cache_features", c.data.image_px or 0
    if not c.augment.off:
        hint = "crops differ at every look. Hint: with --no-augment each image is computed once, and kept"
        choices.take(key, False, hint)
        return
    if c.data.image_px_start is not None:
        choices.take(key, False, "images grow over the epochs")
        return
    import torch

    from fanlight.models import tail

    model = tasks.of(c, manifest).model(c.model.name or "", image_px=px, seed=0).model
    try:
        tail.check(model, torch.zeros((2, 3, px, px)))
    except ConfigError as error:
        choices.take(key, False, str(error))
        return
    each = tail.features(model.eval(), torch.zeros((1, 3, px, px))).numel() * 4
    place, size = cache.folder() / "features", each * len(manifest.rows())
    if size > (free := machine.disk_free(place)) * FEATURES_SHARE:  # of a captioner, a grid of each image
        needed, left = console.bytes_text(size), console.bytes_text(free)
        choices.take(key, False, f"features of all images take {needed}, and {place} has {left} left")
        return
    choices.take(key, True, "only the last layer trains and augmentation is off: the rest computes each image once")


def _length(choices: Choices, manifest: Manifest) -> None:
    count = len(manifest.rows("train"))
    small = (choices.config.data.image_px or 0) <= SMALL_PX
    batch = (64 if small else 32) if count < 10_000 else 128 if count < 200_000 else 256
    unit = choices.config.augment.row_unit
    batch = max(1, min(batch, count // 4) // unit) * unit
    choices.take("train.batch_size", batch, f"{count} training images; it is global, over all ranks")
    worth = SMALL_WORTH if small else PHOTOS_WORTH
    if small and choices.config.model.name == captioning.SMALL_MODEL:
        worth = captioning.SMALL_WORTH
    epochs = min(EPOCHS_MAX, max(EPOCHS_MIN, round(worth / max(1, count))))
    choices.take("train.epochs", epochs, f"{count} training images: about {worth:,} seen, {EPOCHS_MIN} … {EPOCHS_MAX}")
    _evaluations(choices)


def _evaluations(choices: Choices) -> None:
    every = -(-(choices.config.train.epochs or 1) // EVALUATIONS_MAX)
    choices.take("train.evaluate_every", every, f"at most {EVALUATIONS_MAX} evaluations")


def after_epochs(choices: Choices) -> None:
    """What follows from the number of epochs, after that was changed."""
    if choices.reopen("train.evaluate_every"):
        _evaluations(choices)


def after_batch(choices: Choices) -> None:
    """What follows from the batch size, after that was changed."""
    if choices.reopen("optim.lr"):
        _optimizer(choices)


def _optimizer(choices: Choices) -> None:
    config = choices.config
    batch = config.train.batch_size or 1
    tuned = config.model.pretrained or config.model.weights is not None
    if config.optim.name == "sgd":
        lr = 0.05 * math.sqrt(batch / 32) * (UNFROZEN["sgd"] if tuned and not config.model.freezes else 1)
        choices.take("optim.weight_decay", 5e-4, "the usual of SGD on small and middling sets")
    elif config.model.name == captioning.SMALL_MODEL and not tuned:
        lr = captioning.SMALL_LR * math.sqrt(batch / captioning.SMALL_BATCH)
        why = f"{captioning.SMALL_MODEL} learns by long steps"
        choices.take("optim.weight_decay", captioning.SMALL_DECAY, why)
        choices.take("optim.beta2", captioning.SMALL_BETA2, why)
    else:
        lr = 1e-3 * math.sqrt(batch / 64) * (UNFROZEN["adamw"] if tuned and not config.model.freezes else 1)
        choices.take("optim.weight_decay", 0.05, "the usual of AdamW")
    unread = "" if config.optim.name == "adamw" else f", which {config.optim.name} does not read"
    choices.take("optim.beta2", BETA2, f"the usual of AdamW{unread}")
    if config.model.freeze_epochs:
        why = f"what {config.optim.name} takes for a whole network with weights, of what it takes for a new last layer"
        choices.take("optim.unfrozen_lr_scale", UNFROZEN[config.optim.name], why)
    why = f"{config.optim.name}, {'fine-tuning' if tuned else 'from scratch'}, by the square root of batch {batch}"
    ranks = config.execution.ranks or 1
    if config.execution.layout in layouts.PERIODIC and config.optim.name == "adamw" and ranks > 1:
        # Adam divides by the root of a rank's own squared gradients, whose noise is √R of the batch's: so it moves 1/√R as far.
        lr *= math.sqrt(ranks)
        why += f", times √{ranks}, as each of {ranks} ranks divides by gradients of its own rows"
    choices.take("optim.lr", float(f"{lr:.3g}"), why)


def check_phases(config: Config) -> None:
    """ConfigError where the epochs with a frozen network leave none for the whole one."""
    epochs, frozen = config.train.epochs or 0, config.model.freeze_epochs
    if frozen >= epochs > 0:
        way = "" if config.train.time_limit_s is None else "; or a longer --time-limit, in which more epochs fit"
        raise ConfigError(
            f"model.freeze_epochs is {frozen} of {epochs} epochs, which leaves none for the whole network; use --freeze, or "
            f"--epochs {2 * frozen}{way}"
        )


def warn_of_unused(config: Config) -> None:
    """Names what was asked for and decides nothing, for want of the flag that it belongs to."""
    a, o = config.augment, config.optim
    belongs = {
        "train.sync_every": (config.execution.layout in layouts.PERIODIC, "--layout local-sgd or diloco"),
        "optim.outer_lr": (config.execution.layout == "diloco", "--layout diloco"),
        "optim.outer_momentum": (config.execution.layout == "diloco", "--layout diloco"),
        "augment.rand_ops": (a.policy == "rand", "--policy rand"),
        "augment.rand_magnitude": (a.policy == "rand", "--policy rand"),
        "augment.mix_probability": (a.mixes, "--mixup or --cutmix"),
        "optim.step_shares": (o.schedule == "step", "--schedule step"),
        "optim.step_gamma": (o.schedule == "step", "--schedule step"),
        "optim.decay_share": (o.schedule == "wsd", "--schedule wsd"),
        "optim.beta2": (o.name == "adamw", "--optimizer adamw"),
        "optim.unfrozen_lr_scale": (config.model.freeze_epochs > 0, "--freeze-epochs"),
    }
    for key, (is_used, flag) in belongs.items():
        section, name = key.split(".")
        is_open = getattr(getattr(config, section), name) is None  # as a run's config.yaml says it
        if key in config.asked and not is_open and not is_used:
            warn(f"{key} is set and nothing uses it", why=f"It belongs to {flag}", do=f"Give {flag}, or leave it out")


def _fits_together(choices: Choices, manifest: Manifest) -> None:
    config = choices.config
    count = len(manifest.rows("train"))
    if not count:
        raise DataError(f"{config.data.path}: no usable training image; see `fanlight check {config.data.path}`")
    tasks.check(config, manifest)
    sampling.draws(
        manifest, manifest.rows("train"), sampling=config.data.sampling
    )  # raises where weights cannot be used
    if config.train.patience is not None and not len(manifest.rows("val")):
        raise ConfigError(
            f"train.patience is {config.train.patience} and there is no val split whose score could be waited for; "
            "add validation images, or leave --patience out"
        )
    if config.data.sampling == "balanced" and config.optim.class_weights in class_weights.NAMES:
        warn(
            f"--sampling balanced with --class-weights {config.optim.class_weights}",
            why="Both make up for rare classes, which then count twice over",
            do="Use one of them",
        )
    start_px, full_px = config.data.image_px_start, config.data.image_px or 0
    if start_px is not None:
        checks.check_growing(start_px, full_px)
    epochs = config.train.epochs or 0
    if start_px is not None and epochs == 1:
        warn(
            f"--image-size-start {start_px} with a single epoch",
            why=f"The last epoch is always at the full side, so every image is at {full_px} px",
            do="Use more --epochs, or --set data.image_px_start=none",
        )
    patience, early = config.train.patience, (epochs - 1) // (config.train.evaluate_every or 1)
    if patience is not None and config.train.time_limit_s is None and patience >= early:  # a limit may change epochs
        warn(
            f"--patience {patience} with {early} evaluation(s) before the last epoch's",
            why="The first of them is the best yet, so the run cannot end early",
            do="Use a smaller --patience, more --epochs, or a smaller train.evaluate_every",
        )
    check_phases(config)
    batch = config.train.batch_size or 1
    all_ranks = config.execution.ranks or 1
    machines = all_ranks // (choices.local_ranks or all_ranks)
    ranks = layouts.of(config.execution, ranks=all_ranks, machines=machines).data_ranks
    if batch > count:
        raise ConfigError(
            f"train.batch_size is {batch} and there are {count} training images; use --batch-size {count}"
        )
    check_rows(config, ranks=ranks)


def check_rows(config: Config, *, ranks: int) -> None:
    """ConfigError where a microbatch has no row for one of the `ranks` that see different ones, or pairs would be parted."""
    batch, microbatches, unit = config.train.batch_size or 1, config.train.microbatches, config.augment.row_unit
    if batch % unit:
        raise ConfigError(
            f"train.batch_size is {batch}, and mixup and cutmix mix pairs of images; "
            f"use --batch-size {batch // unit * unit or unit}"
        )
    if batch // unit // microbatches < ranks:
        what = "a pair of images (mixup and cutmix mix pairs)" if unit > 1 else "an image"
        ways = [f"use --batch-size {ranks * microbatches * unit} or more"]
        ways += ["fewer --microbatches"] if microbatches > 1 else []
        ways += ["fewer --ranks"] if ranks > 1 else []
        raise ConfigError(
            f"train.batch_size {batch} in {microbatches} microbatch(es) over {ranks} ranks leaves a rank without {what}; "
            f"{', or '.join(ways)}"
        )
