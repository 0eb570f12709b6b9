"""CIDEr of captions (Vedantam et al. 2015), in both its forms, times 10 as the published tools have it. N images, R
references, E entries: a run of words in a sentence.

A sentence is a vector of its runs, each weighing its count × log(images / images with it in a reference): what every
caption says counts nothing. The document frequency is that of the references of the set that is scored, so a score
compares captions of the same images only, and one image alone has none: every weight is log(1 / 1) = 0.

`cider_d` clips a caption's weights to the reference's and is smaller the more the lengths differ: nothing is gained by
repeating a word. pycocoevalcap, and so most papers, call this one CIDEr. `cider_plain` is the mean cosine, without both.
"""

from dataclasses import dataclass

import numpy as np

from fanlight.tasks.caption_bleu import looked_up
from fanlight.tasks.caption_ngrams import LONGEST, Runs

SCALE = 10.0
SIGMA = 6.0  # words: the Gaussian of the difference in length


@dataclass(frozen=True)
class References:
    """The references' vectors for one length of runs."""

    runs: Runs
    rarity: np.ndarray  # float64 [kinds], log(images / images with the run in a reference)
    norm_R: np.ndarray  # float64


def prepared(references: tuple[Runs, ...], *, image_R: np.ndarray, images: int) -> tuple[References, ...]:
    """Of the runs of all references; `image_R` says whose each is."""
    found = []
    for runs in references:
        pairs = np.unique(image_R[runs.sentence_E] * max(runs.kinds, 1) + runs.run_E)
        having = np.bincount(pairs % max(runs.kinds, 1), minlength=runs.kinds)
        rarity = np.log(max(images, 1)) - np.log(np.maximum(having, 1))  # what no reference has is as rare as can be
        found.append(References(runs, rarity, _norms(runs, rarity, sentences=len(image_R))))
    return tuple(found)


def _norms(runs: Runs, rarity: np.ndarray, *, sentences: int) -> np.ndarray:
    weight_E = runs.count_E * rarity[runs.run_E]
    return np.sqrt(np.bincount(runs.sentence_E, weights=weight_E**2, minlength=sentences))


def cider(
    captions: tuple[Runs, ...], references: tuple[References, ...], *, image_N: np.ndarray, image_R: np.ndarray,
    length_N: np.ndarray, length_R: np.ndarray,
) -> dict[str, np.ndarray]:  # fmt: skip
    """`cider_d` and `cider_plain` of each image, float64 [N]. Caption j stands at image `image_N[j]`; `length_N` is of
    the captions by the image where they stand."""
    images = len(image_N)
    # The published tool takes the number of pairs for the length: one less, save that no words count as one.
    apart_R = np.maximum(length_N[image_R] - 1, 0) - np.maximum(length_R - 1, 0)
    alike_R = np.exp(-(apart_R.astype(np.float64) ** 2) / (2 * SIGMA**2))
    total = {"cider_d": np.zeros(len(image_R)), "cider_plain": np.zeros(len(image_R))}
    for own, there in zip(captions, references):
        runs, kinds = there.runs, max(there.runs.kinds, 1)
        key_E = image_N[own.sentence_E] * kinds + own.run_E
        order = np.argsort(key_E, kind="stable")
        rarity_E = there.rarity[runs.run_E]
        said_E = looked_up(key_E[order], own.count_E[order], image_R[runs.sentence_E] * kinds + runs.run_E)
        norm_N = np.zeros(images)
        norm_N[image_N] = _norms(own, there.rarity, sentences=images)
        product_R = norm_N[image_R] * there.norm_R
        divisor_R = np.where(product_R == 0, 1.0, product_R)
        for name, weight_E in (("cider_d", np.minimum(said_E, runs.count_E)), ("cider_plain", said_E)):
            dot_E = weight_E * rarity_E * runs.count_E * rarity_E
            total[name] += np.bincount(runs.sentence_E, weights=dot_E, minlength=len(image_R)) / divisor_R
    total["cider_d"] *= alike_R
    count_N = np.bincount(image_R, minlength=images)
    return {
        name: SCALE / LONGEST * np.bincount(image_R, weights=value_R, minlength=images) / np.maximum(count_N, 1)
        for name, value_R in total.items()
    }
