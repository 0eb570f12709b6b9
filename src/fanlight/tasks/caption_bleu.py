"""BLEU-1 … 4 of captions (Papineni et al. 2002) as pycocoevalcap counts it: over the whole set, the reference length is the
closest one, the shorter of two; and its two constants in place of 0. N images, R references, K = 4 lengths of runs.

Everything that BLEU needs of an image is ten numbers, and the score of a set is a function of their sums."""

from dataclasses import dataclass

import numpy as np

from fanlight.tasks.caption_ngrams import LONGEST, Runs

TINY, SMALL = 1e-15, 1e-9  # added above and below the line: no match at all is 0, and no run at all divides by no 0
PARTS = 2 * LONGEST + 2  # matches by length, runs by length, words of the caption, words of the closest reference


@dataclass(frozen=True)
class References:
    """What matches are counted against, for one length of runs: how often the run of a key occurs in the reference of the
    image that has it most often. A key is image · kinds + run."""

    key_M: np.ndarray  # int64, sorted
    most_M: np.ndarray  # int64


def prepared(references: tuple[Runs, ...], *, image_R: np.ndarray) -> tuple[References, ...]:
    """Of the runs of all references; `image_R` says whose each is."""
    found = []
    for runs in references:
        key_M, place_E = np.unique(image_R[runs.sentence_E] * max(runs.kinds, 1) + runs.run_E, return_inverse=True)
        most_M = np.zeros(len(key_M), np.int64)
        np.maximum.at(most_M, place_E, runs.count_E)
        found.append(References(key_M, most_M))
    return tuple(found)


def parts(
    captions: tuple[Runs, ...], references: tuple[References, ...], *, image_N: np.ndarray, length_N: np.ndarray,
    closest_N: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """float64 [N, PARTS] of the images. Caption j stands at image `image_N[j]`, a permutation; `length_N` and `closest_N`
    are of the captions and of the references of the images where they stand, both by image."""
    found = np.zeros((len(image_N), PARTS))
    for at, (runs, there) in enumerate(zip(captions, references)):
        image_E = image_N[runs.sentence_E]
        matched_E = np.minimum(
            runs.count_E, looked_up(there.key_M, there.most_M, image_E * max(runs.kinds, 1) + runs.run_E)
        )
        found[:, at] = np.bincount(image_E, weights=matched_E, minlength=len(image_N))
        found[:, LONGEST + at] = np.maximum(length_N - at, 0)
    found[:, -2], found[:, -1] = length_N, closest_N
    return found


def looked_up(keys: np.ndarray, values: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """`values` at sorted `keys`; 0 where a wanted one is none of them."""
    if not len(keys):
        return np.zeros(len(wanted), values.dtype)
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, values[place], 0)


def closest(length_N: np.ndarray, *, length_R: np.ndarray, image_R: np.ndarray) -> np.ndarray:
    """int64 [N], the length of the reference that is closest to each image's caption, the shorter of two. References are
    in order of their images, and every image has one."""
    most = int(max(length_R.max(initial=0), length_N.max(initial=0))) + 1
    distance_R = np.abs(length_R - length_N[image_R]) * most + length_R
    first_N = np.searchsorted(image_R, np.arange(len(length_N)))
    return np.minimum.reduceat(distance_R, first_N) % most if len(length_N) else np.zeros(0, np.int64)


def bleu(parts: np.ndarray) -> np.ndarray:
    """float64 [..., K] of parts [..., PARTS]: of one image, or of the sum over a set."""
    matched, runs, length, closest_length = (
        parts[..., :LONGEST], parts[..., LONGEST : 2 * LONGEST], parts[..., -2], parts[..., -1]
    )  # fmt: skip
    precision = np.cumprod((matched + TINY) / (runs + SMALL), axis=-1) ** (1 / np.arange(1, LONGEST + 1))
    ratio = (length + TINY) / (closest_length + SMALL)
    with np.errstate(under="ignore"):
        return precision * np.exp(np.minimum(0.0, 1 - 1 / ratio))[..., None]
