"""Which of the pictures that were compared are copies, by kind. D pictures, P pairs of them with a < b."""

from __future__ import annotations

import hashlib
from concurrent.futures import Executor
from dataclasses import dataclass

import numpy as np

from fanlight.data import canvas
from fanlight.data.audit import near, rotated, turned, words
from fanlight.data.audit.result import KINDS
from fanlight.data.audit.signature import Signatures
from fanlight.data.manifest import Manifest
from fanlight.errors import DataError

SAME_PIXELS = 0.005  # distance of spectra within which pictures of one size are decoded whole and compared
AGREE_LEAST, PIXELS_LEAST = 6, 0.8  # keypoints and pixels: of 765 copies .5 % are lower, of one room's stills most are
FEW_AGREE, FEW_PIXELS = 4, 0.9  # or fewer keypoints, with pixels that agree better; strangers reach 3, one in 400 more
# Of the distance of near copies, as views blur; and pixels: of 800 copies .5 % are lower.
TURNED_MORE, TURNED_PIXELS = 1.5, 0.68
TURNED_SPREAD = 16.0  # effective frequencies from which that holds: one low sun is like another
STRONG_AGREE, STRONG_PIXELS = 10, 0.85  # a pair that counts as two, see `components`


@dataclass(frozen=True, eq=False)
class Pairs:
    """Pictures that show the same."""

    both: np.ndarray  # int64 [P, 2], each pair once, in order
    kind: np.ndarray  # int8 [P], index into KINDS
    evidence: np.ndarray  # float32 [P]
    is_strong: np.ndarray  # bool [P]: enough to extend a large group alone
    near_limit: float
    capped: int


def copies(
    manifest: Manifest,
    pictures: Signatures,
    row_D: np.ndarray,
    *,
    thorough: bool,
    memory_bytes: int,
    pool: Executor,
) -> Pairs:
    """`row_D`: a manifest row of each picture."""
    members = np.flatnonzero(pictures.has_structure)
    within = near.limit(pictures, members)
    both, distance, capped = near.find(pictures, members, within=within, pool=pool)
    equal = _same_pixels(manifest, row_D, both, distance=distance, pool=pool)
    kind = np.where(equal, KINDS.index("pixels"), KINDS.index("near"))
    evidence = np.where(equal, 1, 1 - distance)
    is_strong = distance <= within / 2
    if thorough:
        count = len(pictures)
        known = both[:, 0] * count + both[:, 1]
        found = rotated.find(pictures, members, known=known, memory_bytes=memory_bytes // 2, pool=pool)
        soft = np.minimum(1, pictures.spread / TURNED_SPREAD)[found.both].min(1)
        good = (1 - found.like <= TURNED_MORE * within * soft) & (found.pixels >= TURNED_PIXELS)
        both = np.concatenate([both, found.both[good]])
        kind = np.concatenate([kind, np.full(int(good.sum()), KINDS.index("turned"))])
        evidence = np.concatenate([evidence, found.pixels[good]])
        is_strong = np.concatenate([is_strong, (1 - found.like <= within * soft)[good]])
        capped += found.capped
        others, more = words.candidates(pictures, members, memory_bytes=memory_bytes // 2)
        capped += more
        others = others[~np.isin(others[:, 0] * count + others[:, 1], both[:, 0] * count + both[:, 1])]
        agree, pixels = turned.compare(pictures, others, pool=pool)
        good = (agree >= AGREE_LEAST) & (pixels >= PIXELS_LEAST)
        good |= (agree >= FEW_AGREE) & (pixels >= FEW_PIXELS)
        both = np.concatenate([both, others[good]])
        kind = np.concatenate([kind, np.full(int(good.sum()), KINDS.index("turned"))])
        evidence = np.concatenate([evidence, pixels[good]])
        strong = (agree >= STRONG_AGREE) & (pixels >= STRONG_PIXELS)
        is_strong = np.concatenate([is_strong, strong[good]])
    order = np.lexsort((both[:, 1], both[:, 0]))
    return Pairs(
        both[order], kind[order].astype(np.int8), evidence[order].astype(np.float32), is_strong[order], within, capped
    )


def _same_pixels(
    manifest: Manifest, row_D: np.ndarray, both: np.ndarray, *, distance: np.ndarray, pool: Executor
) -> np.ndarray:
    """bool [P]: decoded whole, the two are equal in every pixel. Only those that can be are decoded, each once."""
    sizes = np.stack([manifest.column("width"), manifest.column("height")], 1)[row_D]
    maybe = (distance <= SAME_PIXELS) & (sizes[both[:, 0]] == sizes[both[:, 1]]).all(1)
    wanted = np.unique(both[maybe])

    def digest(picture: int) -> bytes:
        try:
            pixels_HWC = canvas.to_canvas(manifest.read(int(row_D[picture])), None)
        except DataError:
            return f"unreadable {picture}".encode()
        return hashlib.sha256(pixels_HWC.data).digest()

    digests = dict(zip(wanted.tolist(), pool.map(digest, wanted.tolist())))
    return np.array([ok and digests[a] == digests[b] for ok, (a, b) in zip(maybe.tolist(), both.tolist())], bool)
