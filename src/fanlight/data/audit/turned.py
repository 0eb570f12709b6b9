"""Whether one picture is another turned, mirrored, cropped or zoomed. P pairs, K keypoints of a picture, M of them propose.

Points are complex numbers: a turn and zoom is z -> αz + β, a mirrored one takes conj(z) first. Each of the best matches
proposes the α and β of its own sizes and angles, the one that most matches agree with is fitted, and an affine map
z -> αz + γconj(z) + β counts who agrees. Pixels laid over each other have the last word (`overlay`).
"""

from __future__ import annotations

from concurrent.futures import Executor

import numpy as np

from fanlight.data.audit import overlay
from fanlight.data.audit.keypoints import MIRROR
from fanlight.data.audit.signature import Signatures

BATCH = 64
PROPOSING = 8
MATCH_LEAST = 0.6  # cosine of two codes
LOOSE_PX, FIRST_PX, TIGHT_PX = 7.0, 4.0, 3.0  # of the canvas: one keypoint's angle is good to degrees, a fit to a pixel
LOOSE_OCTAVES, LOOSE_RADIANS = 0.6, 0.5
LOOKED_AT = 4  # matches that agree: pixels are compared from here on; strangers reach 3, one in 400 more


def compare(pictures: Signatures, both: np.ndarray, *, pool: Executor) -> tuple[np.ndarray, np.ndarray]:
    """Of every pair, how many matches agree on a geometry, int64 [P], and how well the pixels then agree, float32 [P]."""
    parts = [both[start : start + BATCH] for start in range(0, len(both), BATCH)]
    found = list(pool.map(lambda part: _compared(pictures, part[:, 0], part[:, 1]), parts))
    if not found:
        return np.zeros(0, np.int64), np.zeros(0, np.float32)
    return np.concatenate([one for one, _ in found]), np.concatenate([one for _, one in found])


def _compared(pictures: Signatures, a: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    one, two = _padded(pictures, a), _padded(pictures, b)
    agree, maps, is_mirrored = _geometry(*one, *two)
    pixels = np.zeros(len(a), np.float32)
    for pair in np.flatnonzero(agree >= LOOKED_AT):
        pixels[pair] = overlay.agreement(
            pictures.thumb[a[pair]],
            pictures.thumb[b[pair]],
            matrix=overlay.matrix(maps[pair], is_mirrored=bool(is_mirrored[pair])),
            sizes=(pictures.size[a[pair]], pictures.size[b[pair]]),
        )
    return agree, pixels


def _padded(pictures: Signatures, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Positions, complex [P, K]; size · e^(i angle), complex [P, K]; codes of length 1, float32 [P, K, C]. 0 where fewer."""
    starts, counts = pictures.starts[chosen], pictures.counts[chosen]
    place = np.arange(max(1, int(counts.max())))
    there = place < counts[:, None]
    rows = np.where(there, starts[:, None] + place, 0)
    points = pictures.points[rows].astype(np.float32) * there[..., None]
    codes = pictures.codes[rows].astype(np.float32)
    codes *= (there / np.maximum(np.sqrt(np.einsum("pkc,pkc->pk", codes, codes)), np.float32(1e-6)))[..., None]
    arms = np.where(there, points[..., 2], 1) * np.exp(np.complex64(1j) * np.deg2rad(points[..., 3]))
    return points[..., 0] + np.complex64(1j) * points[..., 1], arms, codes


def _geometry(
    at_a: np.ndarray, arm_a: np.ndarray, code_a: np.ndarray, at_b: np.ndarray, arm_b: np.ndarray, code_b: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Matches that agree, int64 [P]; the map as (α, γ, β), complex [P, 3]; whether a is mirrored first, bool [P]."""
    straight = _matched(code_a, code_b)
    mirrored = _matched(code_a * MIRROR, code_b)
    is_mirrored = mirrored[2].sum(1) > straight[2].sum(1)
    other, ok, weight = (np.where(is_mirrored[:, None], m, s) for m, s in zip(mirrored, straight))
    at_a = np.where(is_mirrored[:, None], at_a.conj(), at_a)
    arm_a = np.where(is_mirrored[:, None], arm_a.conj(), arm_a)
    at_b, arm_b = np.take_along_axis(at_b, other, 1), np.take_along_axis(arm_b, other, 1)

    turn = arm_b / arm_a
    best = np.argsort(-weight, axis=1, kind="stable")[:, :PROPOSING]
    alpha, proposes = np.take_along_axis(turn, best, 1), np.take_along_axis(ok, best, 1)
    beta = np.take_along_axis(at_b, best, 1) - alpha * np.take_along_axis(at_a, best, 1)
    apart = np.abs(alpha[:, :, None] * at_a[:, None] + (beta[:, :, None] - at_b[:, None]))
    of = turn[:, None] / alpha[:, :, None]
    agree = (apart < LOOSE_PX) & (np.abs(np.log2(np.abs(of))) < LOOSE_OCTAVES) & (np.abs(np.angle(of)) < LOOSE_RADIANS)
    agree &= ok[:, None] & proposes[:, :, None]
    winner = agree.sum(2).argmax(1)
    taken = np.take_along_axis(agree, winner[:, None, None], 1)[:, 0]

    terms = np.stack([at_a, at_a.conj(), np.ones_like(at_a)], 2)
    for stiffness, reach in ((60.0, FIRST_PX), (20.0, TIGHT_PX), (20.0, TIGHT_PX)):  # stiff while few agree
        held = terms.conj() * taken[..., None]
        normal = held.transpose(0, 2, 1) @ terms + np.diag([1e-3, stiffness, 1e-3]).astype(np.float32)
        maps = np.linalg.solve(normal, held.transpose(0, 2, 1) @ at_b[..., None])[..., 0]
        taken = (np.abs((terms @ maps[..., None])[..., 0] - at_b) < reach) & ok
    return taken.sum(1), maps, is_mirrored


def _matched(code_a: np.ndarray, code_b: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """For each keypoint of a: the nearest of b, whether each is the other's nearest, and by how much it is like it."""
    like = code_a @ code_b.transpose(0, 2, 1)
    other, back = like.argmax(2), like.argmax(1)
    likeness = np.take_along_axis(like, other[..., None], 2)[..., 0]
    ok = (np.take_along_axis(back, other, 1) == np.arange(like.shape[1])) & (likeness > MATCH_LEAST)
    return other, ok, np.where(ok, likeness - MATCH_LEAST, 0)
