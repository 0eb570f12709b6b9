"""What a config must not say on any data or machine: each refusal names the field, the value and the way out."""

from __future__ import annotations

import math

from fanlight.config import AUDITS, ENGINES, MAGNITUDES, OPTIMIZERS, POLICIES, Augment, Config
from fanlight.data import sampling, split
from fanlight.errors import ConfigError
from fanlight.train import devices, layouting, precision, schedule

THREADS_MAX, EVAL_BATCH_MAX = 1024, 65_536  # more is a slip; OpenMP ends the process where threads cannot be had
IMAGE_PX_MAX, FOLDS_MAX, NORMALISE_MAX = 65_536, 1000, 1e6
OPS_MAX = 100  # of augment.rand_ops: an image takes seconds
ALPHA_MIN, ALPHA_MAX = 0.001, 1000  # of mixup and cutmix: outside, every share is 0, 1 or a half
COUNT_MAX = 10**9  # images, steps or pixels: more is a slip
WORDS_MAX, CAPTIONS_MAX, BEAMS_MAX = 1000, 1000, 100  # of a caption, of an image, of a search: more is a slip
WINDOW_MAX = 100_000  # batches
DECAY_MAX = 1e4  # a step multiplies weights by 1 - lr · decay
LR_MAX = 1e30  # what float32 holds, with room for the optimizer's arithmetic


def check(config: Config) -> None:
    """Raises ConfigError for a value that cannot work on any data or machine."""
    for part in _numbers, _shares, _optim, _execution, _augment, _data, _features, _model, _caption:
        part(config)
    layouting.check(config)


def _numbers(c: Config) -> None:
    positive = {
        "train.epochs": c.train.epochs, "train.batch_size": c.train.batch_size, "train.microbatches": c.train.microbatches,
        "train.evaluate_every": c.train.evaluate_every, "data.limit": c.data.limit, "data.image_px": c.data.image_px,
        "data.image_px_start": c.data.image_px_start,
        "data.canvas_px": c.data.canvas_px, "execution.ranks": c.execution.ranks, "execution.threads": c.execution.threads,
        "execution.workers": c.execution.workers, "execution.eval_batch": c.execution.eval_batch,
        "execution.bucket_mb": c.execution.bucket_mb,
        "execution.keep_checkpoints": c.execution.keep_checkpoints, "optim.lr": c.optim.lr,
        "optim.unfrozen_lr_scale": c.optim.unfrozen_lr_scale,
        "execution.checkpoint_steps": c.execution.checkpoint_steps, "optim.clip_norm": c.optim.clip_norm,
        "train.patience": c.train.patience, "train.sync_every": c.train.sync_every, "optim.outer_lr": c.optim.outer_lr,
        "train.time_limit_s": c.train.time_limit_s, "execution.stages_per_rank": c.execution.stages_per_rank,
    }  # fmt: skip
    for key, value in positive.items():
        if value is not None and not value > 0:
            raise ConfigError(f"{key} is {value}; it must be above 0")
    largest = {
        "execution.workers": (c.execution.workers, THREADS_MAX), "execution.threads": (c.execution.threads, THREADS_MAX),
        "execution.eval_batch": (c.execution.eval_batch, EVAL_BATCH_MAX), "optim.lr": (c.optim.lr, LR_MAX),
        "data.image_px": (c.data.image_px, IMAGE_PX_MAX), "data.folds": (c.data.folds, FOLDS_MAX),
        "optim.outer_lr": (c.optim.outer_lr, LR_MAX), "optim.weight_decay": (c.optim.weight_decay, DECAY_MAX),
    }  # fmt: skip
    for key, (value, limit) in largest.items():
        if value is not None and value > limit:
            raise ConfigError(f"{key} is {value}; it can be at most {limit:g}")
    for key, value in positive.items():
        if value is not None and (value == math.inf or (isinstance(value, int) and value > COUNT_MAX)):
            raise ConfigError(f"{key} is {value}; it can be at most {COUNT_MAX:g}")
    if c.execution.checkpoint_every_s < 0:
        raise ConfigError(f"execution.checkpoint_every_s is {c.execution.checkpoint_every_s}; it must be 0 or more")
    if not -(1 << 63) <= c.train.seed < 1 << 64:
        raise ConfigError(f"train.seed is {c.train.seed}; it must fit in 64 bits")


def _shares(c: Config) -> None:
    shares = {
        "augment.eval_share": (1.0 if c.augment.eval_share is None else c.augment.eval_share, 0, 1),
        "data.val_fraction": (c.data.val_fraction, 0, split.VAL_FRACTION_MAX),
        "optim.label_smoothing": (c.optim.label_smoothing, -1, 0.999),
        "optim.warmup_share": (c.optim.warmup_share, -1, 0.9), "optim.momentum": (c.optim.momentum, -1, 0.9999),
        "optim.beta2": (c.optim.betas[1], -1, 0.999999),
    }  # fmt: skip
    for key, (value, above, most) in shares.items():
        if not above < value <= most or value < 0:
            bounds = f"above 0 and at most {most:g}" if above == 0 else f"from 0 to {most:g}"
            raise ConfigError(f"{key} is {value}; it must be a share {bounds}")


def _optim(c: Config) -> None:
    if c.optim.weight_decay is not None and not 0 <= c.optim.weight_decay < math.inf:
        raise ConfigError(f"optim.weight_decay is {c.optim.weight_decay}; it must be 0 or more")
    if c.optim.name not in OPTIMIZERS:
        raise ConfigError(f"optim.name is {c.optim.name!r}; use one of {', '.join(OPTIMIZERS)}")
    schedule.check(c.optim)
    if c.train.ema is not None and not 0 < c.train.ema < 1:
        raise ConfigError(f"train.ema is {c.train.ema}; it is a decay per step above 0 and below 1, such as 0.999")


def _execution(c: Config) -> None:
    for key in ("layout", "pipeline_schedule"):
        if getattr(c.execution, key) == "":
            raise ConfigError(f"execution.{key} is empty; name one, or leave --{key.replace('_', '-')} out")
    place = devices.device(c.execution.device)
    if c.train.precision is not None:
        precision.check(c.train.precision, place)


def _augment(c: Config) -> None:
    crop = c.augment.crop_share
    if crop is not None and not 0 < crop[0] <= crop[1] <= 1:
        raise ConfigError(f"augment.crop_share is {crop}; it must be two shares, 0 < lowest ≤ highest ≤ 1")
    if not 0 < c.augment.crop_ratio[0] <= c.augment.crop_ratio[1] < math.inf:
        raise ConfigError(f"augment.crop_ratio is {c.augment.crop_ratio}; it must be two ratios, lowest first")
    _changes(c.augment)
    if min(c.augment.std) <= 0:
        raise ConfigError(f"augment.std is {c.augment.std}; pixels are divided by it, so each must be above 0")
    for key, values in ("augment.mean", c.augment.mean), ("augment.std", c.augment.std):
        if not all(abs(value) <= NORMALISE_MAX for value in values):  # float32 would make every pixel the same
            raise ConfigError(f"{key} is {values}; each can be at most {NORMALISE_MAX:g}")


def _changes(a: Augment) -> None:
    if a.policy not in POLICIES:
        raise ConfigError(f"augment.policy is {a.policy!r}; use one of {', '.join(POLICIES)}")
    if a.engine not in (None, *ENGINES):
        raise ConfigError(f"augment.engine is {a.engine!r}; use one of {', '.join(ENGINES)}")
    if not 1 <= a.rand_ops <= OPS_MAX:
        bound = "1 or more" if a.rand_ops < 1 else f"at most {OPS_MAX}"
        raise ConfigError(f"augment.rand_ops is {a.rand_ops}; it must be {bound}, or use --policy none")
    if not 0 <= a.rand_magnitude <= MAGNITUDES:
        raise ConfigError(f"augment.rand_magnitude is {a.rand_magnitude}; it must be from 0 to {MAGNITUDES}")
    if not all(0 <= value <= most for value, most in zip(a.jitter, (1, 1, 1, 0.5))):
        raise ConfigError(
            f"augment.jitter is {a.jitter}; brightness, contrast and saturation must be from 0 to 1, hue from 0 to 0.5"
        )
    for name, share in {"erase": a.erase, "mix_probability": a.mix_probability}.items():
        if not 0 <= share <= 1:
            raise ConfigError(f"augment.{name} is {share}; it must be a probability, from 0 to 1")
    for name, alpha in {"mixup": a.mixup, "cutmix": a.cutmix}.items():
        if alpha and not ALPHA_MIN <= alpha <= ALPHA_MAX:
            raise ConfigError(
                f"augment.{name} is {alpha}; it must be an alpha of 0 (off) or from {ALPHA_MIN} to {ALPHA_MAX}, such as 0.2 or 1"
            )
    asked = [name for name in ("flip", "erase", "mixup", "cutmix") if getattr(a, name)]
    asked += [name for name, is_on in {"policy": a.policy != "none", "jitter": any(a.jitter)}.items() if is_on]
    if a.off and asked:
        raise ConfigError(f"augment.off (--no-augment) and augment.{asked[0]} contradict each other; leave one out")


def _data(c: Config) -> None:
    start_px, full_px = c.data.image_px_start, c.data.image_px
    if start_px is not None and full_px is not None:
        check_growing(start_px, full_px)
    if c.data.sampling not in sampling.NAMES:
        raise ConfigError(f"data.sampling is {c.data.sampling!r}; use one of {', '.join(sampling.NAMES)}")
    if c.data.audit not in (None, *AUDITS):
        raise ConfigError(f"data.audit is {c.data.audit!r}; use {', '.join(AUDITS)}")
    if c.data.order not in (None, "random", "blocks"):
        raise ConfigError(f"data.order is {c.data.order!r}; use random or blocks")
    if c.data.folds is None and c.data.fold:
        raise ConfigError(f"data.fold is {c.data.fold} and data.folds is not given; use --folds K --fold {c.data.fold}")
    if c.data.folds is not None and c.data.folds < 2:
        raise ConfigError(f"data.folds is {c.data.folds}; there must be at least 2, such as --folds 5")
    if c.data.folds is not None and not 0 <= c.data.fold < c.data.folds:
        raise ConfigError(f"data.fold is {c.data.fold} of {c.data.folds} folds; use 0 … {c.data.folds - 1}")


def _features(c: Config) -> None:
    if c.execution.cache_features and not (c.model.freezes and c.augment.off):
        way = (
            "give --freeze"
            if c.augment.off
            else "give --freeze and --no-augment"
            if not c.model.freezes
            else "give --no-augment"
        )
        raise ConfigError(
            "execution.cache_features is true, and an image has the same features at every look only where the network "
            f"is frozen and nothing is random; {way}, or --no-cache-features"
        )
    if c.execution.cache_features and c.data.image_px_start is not None:
        raise ConfigError(
            f"execution.cache_features is true, and with data.image_px_start {c.data.image_px_start} images have other sides "
            "in later epochs; leave --image-size-start out, or give --no-cache-features"
        )


def _model(c: Config) -> None:
    if c.execution.compile and c.execution.recompute:
        raise ConfigError(
            "execution.compile and execution.recompute both change what a block's forward does, and torch's compiler does not "
            "see through the second; leave out --compile or --recompute"
        )
    if c.execution.compile and c.model.freezes:
        raise ConfigError(
            "execution.compile compiles what trains, and here the network's layers are frozen, at first or throughout; leave "
            "out --compile, or --freeze and --freeze-epochs"
        )
    if c.model.pretrained and c.model.weights:
        raise ConfigError("model.pretrained and model.weights both name the weights to start from; use one of them")
    if c.model.freeze_epochs < 0:
        raise ConfigError(f"model.freeze_epochs is {c.model.freeze_epochs}; it must be 0 or more")
    if c.model.freeze and c.model.freeze_epochs:
        raise ConfigError(
            f"model.freeze trains the last layer in every epoch, and model.freeze_epochs in {c.model.freeze_epochs}; "
            "use --freeze, or --freeze-epochs and --no-freeze"
        )
    if c.model.freezes and not (c.model.pretrained or c.model.weights):
        name, way = ("freeze", "--no-freeze") if c.model.freeze else ("freeze_epochs", "--freeze-epochs 0")
        raise ConfigError(f"model.{name} would keep random weights; give --weights FILE or --pretrained, or {way}")


def _caption(c: Config) -> None:
    for name, most in {
        "min_count": COUNT_MAX,
        "longest": WORDS_MAX,
        "per_image": CAPTIONS_MAX,
        "window": WINDOW_MAX,
        "beams": BEAMS_MAX,
    }.items():
        value = getattr(c.caption, name)
        if value is not None and not 1 <= value <= most:
            raise ConfigError(f"caption.{name} is {value}; it must be from 1 to {most:g}")


def check_growing(start_px: int, full_px: int) -> None:
    """ConfigError where images would not grow."""
    if start_px >= full_px:
        raise ConfigError(
            f"data.image_px_start is {start_px} and data.image_px {full_px}; sides grow, so start smaller "
            "(--image-size-start), or at the full side at once: --set data.image_px_start=none"
        )
