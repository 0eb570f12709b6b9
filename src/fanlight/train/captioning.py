"""Automatic choices for images with captions, each with its reason: what train/resolve.py leaves to the task."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fanlight.data import spoken
from fanlight.data.manifest import Manifest
from fanlight.tasks import caption_unsuited

if TYPE_CHECKING:
    from fanlight.train.resolve import Choices

PHOTO_MODEL, SMALL_MODEL = "resnet18+lstm", "small-grid+transformer64x2"
COMMON = ((1_000, 1), (10_000, 2), (100_000, 4))  # below so many captions a word is known that occurs so often
COMMON_MOST = 5  # the usual of COCO
LONG_SHARE, LONG_MOST = 0.99, 40  # of captions that are whole; words of the longest
PER_IMAGE_MOST, PER_SMALL_IMAGE = 5, 1  # a small image costs hardly more than a caption of it
PHOTO_CROP = (0.7, 1.0)
SMALL_BATCH, SMALL_LR = 32, 4e-3  # of SMALL_MODEL: a narrow network learns by many steps, and by long ones
STEPS_LEAST = 4  # of an epoch, as for classes: few images come in smaller batches
SMALL_BETA2, SMALL_DECAY = 0.98, 0.02  # of SMALL_MODEL, whose gradients change fast; the former: Vaswani et al. 2017
SMALL_WORTH = 60_000  # images of SMALL_MODEL seen in a default run: within five minutes of two cores, on a slow day too
WINDOW = 32  # of photos, whose sentences are as long as their writers like


def sizes(choices: Choices, *, is_small: bool) -> None:
    """How images are cut: a sentence speaks of all that is in a picture."""
    if is_small:
        choices.take("augment.crop_share", (1.0, 1.0), "captions speak of all that is in a small image")
    choices.take("augment.crop_share", PHOTO_CROP, "captions speak of most of what is in an image")
    choices.take("augment.eval_share", 1.0, "captions speak of all that is in an image")


def whole(choices: Choices, manifest: Manifest, *, is_small: bool) -> None:
    """Network, mirroring, and what of the captions is used."""
    choices.take("model.name", SMALL_MODEL if is_small else PHOTO_MODEL, "the default for captions")
    if choices.config.model.name == SMALL_MODEL:
        batch = max(1, min(SMALL_BATCH, len(manifest.rows("train")) // STEPS_LEAST))
        choices.take("train.batch_size", batch, f"{SMALL_MODEL} learns by many steps; it is global, over all ranks")
    found = caption_unsuited.sided(manifest)
    if found:
        choices.take("augment.flip", False, f"{found[0]} captions say left or right, which a mirror exchanges")
    choices.take("augment.flip", False, "what captions say of places, numerals or letters may be false in a mirror")
    said, rows = spoken.of(manifest), manifest.rows("train")
    counts, lengths = said.counts(rows), said.lengths(rows)
    total, most = int(counts.sum()), int(counts.max(initial=1))
    least = next((count for most, count in COMMON if total < most), COMMON_MOST)
    choices.take("caption.min_count", least, f"{total:,} training captions; rarer words are <unk>")
    usual = np.quantile(lengths, LONG_SHARE, method="inverted_cdf") if len(lengths) else 1
    long = int(min(LONG_MOST, max(1, usual)))
    choices.take("caption.longest", long, f"{LONG_SHARE:.0%} of captions have at most as many words, or {LONG_MOST}")
    each = min(PER_SMALL_IMAGE if is_small else PER_IMAGE_MOST, most)
    why = "others come in later epochs" if each < most else "they share one forward"
    choices.take("caption.per_image", each, f"images have up to {most} captions; {why}")
    # Long sentences speak of much that is in a picture: batches of like pictures are poor means, and words of small ones cheap.
    why = "small images come in any order" if is_small else "sentences of like length share a batch, which wastes less"
    choices.take("caption.window", 1 if is_small else WINDOW, why)
