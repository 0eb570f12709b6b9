"""Runs of film frames: numbered files of one folder whose neighbours are far more alike than its other pictures.

Colours of 8 × 8 places are compared, the second picture also mirrored, and each file with the next two: data sets mix in
mirrored frames. How alike the folder's pictures are anyway is measured on random pairs of it, so photos that are merely
numbered make no runs, and neither do folders whose pictures all look alike.
"""

from __future__ import annotations

import re
from collections import defaultdict

import numpy as np

from fanlight.data.audit import components

FEWEST = 8  # files of a folder that can be judged
FILM_SHARE = 0.6  # of neighbours are nearer than NEAR of random pairs: then the folder is film
NEAR, CUT = 0.05, 0.20  # quantiles of the distances of random pairs: what a film's neighbours are, where a run is cut
# That share, less the median distance of neighbours in that of random pairs: asl29 has .4 to .9, numbered photos -.3, and
# handwritten digits, some by one hand after the other, .2 at most.
FILM_LEAST = 0.35
APART = 5  # files between the two of a random pair
SAMPLE = 20_000
JUMP = 10  # times the usual step of the numbers: another scene
LAGS = (1, 2)
_number = re.compile(r"\d+")


def runs(paths: list[str], colours: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Positions in `paths` of every run, in natural order, and the likeness, 0 … 1, of each with the one before it.

    `colours`: uint8 [N, 8, 8, 3], of the same files."""
    series: dict[tuple[str, str], list[tuple[tuple[int, ...], str, int]]] = defaultdict(list)
    for place, path in enumerate(paths):
        folder, _, name = path.rpartition("/")
        numbers = tuple(int(digits) for digits in _number.findall(name))
        if numbers:
            series[folder, _number.sub("#", name.rpartition(".")[0])].append((numbers, path, place))
    found, likeness = [], []
    for _, files in sorted(series.items()):
        if len(files) >= FEWEST:
            files.sort()
            places = np.array([place for *_, place in files])
            for run, alike in _runs_of(colours[places], np.array([numbers[-1] for numbers, *_ in files])):
                found.append(places[run])
                likeness.append(alike)
    return found, likeness


def _runs_of(colours: np.ndarray, numbers: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    count = len(colours)
    flat = colours.reshape(count, -1).astype(np.int16)
    mirrored = colours[:, :, ::-1].reshape(count, -1).astype(np.int16)

    def apart(one: np.ndarray, two: np.ndarray) -> np.ndarray:
        """float64, mean difference of the levels, the lesser of straight and mirrored."""
        straight = np.abs(flat[one] - flat[two]).mean(1)
        return np.minimum(straight, np.abs(flat[one] - mirrored[two]).mean(1))

    first, second = _random_pairs(count)
    usual = np.sort(
        np.concatenate([apart(first[s : s + 4096], second[s : s + 4096]) for s in range(0, len(first), 4096)])
    )
    near, cut = np.quantile(usual, NEAR), np.quantile(usual, CUT)
    place = np.arange(count)
    links = {lag: apart(place[:-lag], place[lag:]) for lag in LAGS}
    nearest = np.full(count, np.inf)
    for lag, distance in links.items():
        nearest[:-lag] = np.minimum(nearest[:-lag], distance)
        nearest[lag:] = np.minimum(nearest[lag:], distance)
    share, ratio = (nearest < near).mean(), np.median(nearest) / max(float(np.median(usual)), 1e-9)
    if share < FILM_SHARE or share - ratio < FILM_LEAST:
        return []
    steps = np.abs(np.diff(numbers))
    scene = np.concatenate([[0], np.cumsum(steps > JUMP * max(1.0, float(np.median(steps))))])
    linked = [np.flatnonzero((distance < cut) & (scene[:-lag] == scene[lag:])) for lag, distance in links.items()]
    pairs_P2 = np.concatenate([np.stack([one, one + lag], 1) for one, lag in zip(linked, links)])
    label = components.connected(pairs_P2, count=count)
    scale = max(float(np.median(usual)), 1.0)
    found = []
    order = np.argsort(label, kind="stable")
    for run in np.split(order, np.flatnonzero(np.diff(label[order])) + 1):
        if len(run) > 1:
            found.append((run, np.clip(1 - apart(run[:-1], run[1:]) / scale, 0, 1)))
    return found


def _random_pairs(count: int) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of a folder's files, APART or more; the same at every call."""
    if count * (count - 1) // 2 <= SAMPLE:
        first, second = np.triu_indices(count, APART)
        return first, second
    number = np.arange(SAMPLE)
    first = number * 40503 % count
    second = (first + APART + number * 2654435761 % (count - 2 * APART)) % count
    return first, second
