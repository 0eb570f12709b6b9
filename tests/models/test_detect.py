"""Word detection: what the loss counts, and who may say what."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from fanlight.data import vocabulary
from fanlight.data.vocabulary import Vocabulary
from fanlight.models import detect, zoo
from fanlight.tasks.caption import Caption
from fanlight.types import END, PAD, START, UNK

WORDS, LONGEST = 12, 7
TASK = Caption(
    Vocabulary((*vocabulary.SPECIAL, *map(str, range(4, WORDS)))), longest=LONGEST - 2, per_image=2, beams=1,
    label_smoothing=0.1,
)  # fmt: skip
CAPTIONS = torch.tensor([
    [[START, 4, 5, 4, END, PAD, PAD], [START, 11, UNK, END, PAD, PAD, PAD]],
    [[START, 6, 7, 8, 9, 10, END], [PAD] * 7],
])  # fmt: skip


def outputs(rows: int = 2) -> torch.Tensor:
    found = torch.randn(rows, 2, LONGEST, WORDS, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found[:, :, 0] = found[:, :1, 0]
    return found


def by_hand(said: np.ndarray, captions: np.ndarray, *, found: int) -> float:
    """Of each caption that is one, over the words that are looked for, times how many of its words count."""
    total = 0.0
    for image, of_image in enumerate(captions):
        for number, caption in enumerate(of_image):
            for word in range(4, 4 + found):
                score = said[image, number, 0, word]
                seen = 1 / (1 + np.exp(-score))
                total -= np.log(seen if word in caption else 1 - seen) * (caption[1:] != PAD).sum()
    return total


@pytest.mark.parametrize("most", [1000, 5])
def test_the_loss_is_of_words_that_stand_in_a_caption(monkeypatch, most):
    monkeypatch.setattr(detect, "MOST", most)
    said = outputs()
    plain = F.cross_entropy(
        said[:, :, 1:].flatten(0, 2),
        CAPTIONS[..., 1:].flatten(),
        ignore_index=PAD,
        reduction="sum",
        label_smoothing=0.1,
    )
    expected = by_hand(said.numpy(), CAPTIONS.numpy(), found=min(8, most))
    assert float(TASK.loss_sum(said, CAPTIONS) - plain) == pytest.approx(expected, rel=1e-12)
    assert float(TASK.loss_sum(said[:, :, 1:], CAPTIONS)) == pytest.approx(float(plain), rel=1e-12), "undetected"


def test_padding_and_company_count_nothing():
    said = outputs()
    whole = float(TASK.loss_sum(said, CAPTIONS))
    apart = sum(float(TASK.loss_sum(said[i : i + 1], CAPTIONS[i : i + 1])) for i in range(2))
    assert apart == pytest.approx(whole, rel=1e-12)
    wider = F.pad(said, (0, 0, 0, 3), value=7.0)
    assert float(TASK.loss_sum(wider, F.pad(CAPTIONS, (0, 3), value=PAD))) == pytest.approx(whole, rel=1e-12)


def test_what_is_told_is_of_words_alone():
    said = outputs()
    other = said.clone()
    other[:, :, 0] = 50.0
    for found in (said, other):
        assert np.array_equal(TASK.rows(found, CAPTIONS), TASK.rows(said[:, :, 1:], CAPTIONS))
        assert TASK.hits(found, CAPTIONS) == TASK.hits(said[:, :, 1:], CAPTIONS)


@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_an_image_has_one_score_of_a_word(kind):
    """The best cell's, whatever its captions are."""
    model = zoo.create(f"small-grid+{kind}32", classes=WORDS, image_px=16, seed=0, longest=LONGEST).model.eval()
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        model.decoder.told(CAPTIONS)
        said, seen = model(images), model.features(images)
        best = model.decoder.detector(seen).amax(1)
    assert seen.shape == (2, 4, 128) and best.shape == (2, 8)
    for number in range(2):
        assert torch.equal(said[:, number, 0, detect.FIRST :], best)
    assert not said[:, :, 0, : detect.FIRST].any()


def test_of_streams_the_best_score_counts():
    found = detect.WordDetector(features=6, words=WORDS, streams=2)
    with torch.no_grad():
        features = torch.randn(2, 5, 6)
        own = [stream(part) for stream, part in zip(found.streams, features.chunk(2, 2))]
        assert torch.equal(found(features), torch.maximum(*own))
        features[..., 3:] += 1.0  # what one stream sees is nothing to the other
        assert torch.equal(found.streams[0](features[..., :3]), own[0])
    assert detect.looked_for(WORDS) == 8 and detect.looked_for(10_000) == 1000


def test_cells_tell_the_words_that_they_see():
    found = detect.WordDetector(features=6, words=WORDS, streams=1)
    scores, embedding = torch.full((1, 3, 8), -100.0), torch.randn(WORDS, 4)
    scores[0, 1, 2] = 100.0  # word 6, in the second cell
    with torch.no_grad():
        told = found.in_words(scores, embedding)
    torch.testing.assert_close(told[0, 1], embedding[6] * 2)
    assert not told[0, [0, 2]].any()
