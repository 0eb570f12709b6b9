"""Batches of captions of nearly one length: pure arithmetic, so that every rank knows them and a resumed run goes on.

A batch is as wide as its longest caption, so where lengths vary much of it is PAD. N samples of an epoch, B of a batch.
"""

from __future__ import annotations

import numpy as np

from fanlight.data import order

_BATCH_DRAW = (1 << 40) + 8  # orders the batches of an epoch


def bucketed(keys: np.ndarray, lengths: np.ndarray, *, batch: int, seed: int, epoch: int, window: int) -> np.ndarray:
    """The epoch's keyed order `keys` [N], in batches of like `lengths` [N], which are in the order of the keys.

    Windows of `window` batches (more waste less and shuffle less) are sorted by length and cut into batches, which then come in
    a keyed order; a window is finished before the next begins, as the `blocks` order wants. In a batch samples keep the order
    that they had, so that microbatches and ranks get long and short ones alike. The samples behind the last whole batch stay
    behind it (decision 007): they are those of the keyed order, not the longest."""
    count = len(keys)
    whole = count // batch * batch
    places = np.arange(count)
    turns = order.bits(np.arange(whole // batch), seed=seed, epoch=epoch, draws=1, first_draw=_BATCH_DRAW)[:, 0]
    for start in range(0, whole, window * batch):
        stop = min(start + window * batch, whole)
        batches = np.argsort(lengths[start:stop], kind="stable").reshape(-1, batch)
        batches = np.sort(batches, axis=1)[np.argsort(turns[start // batch : stop // batch], kind="stable")]
        places[start:stop] = start + batches.ravel()
    return np.asarray(keys)[places]
