"""Word detection: what the loss counts, and who may say what."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file

from fanlight.data import vocabulary
from fanlight.data.vocabulary import Vocabulary
from fanlight.errors import ConfigError
from fanlight.models import decode, detect, zoo
from fanlight.models.captioner import Captioner
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


def captioner(kind: str, *, encoder: str = "small-cnn", **options) -> Captioner:
    return zoo.create(f"{encoder}+{kind}", classes=WORDS, image_px=16, seed=0, longest=LONGEST, **options).model


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
    for turned in ([1, 0], [0, 1]):
        among_images = float(TASK.loss_sum(said[turned], CAPTIONS[turned]))
        of_an_image = float(TASK.loss_sum(said[:, turned], CAPTIONS[:, turned]))
        assert among_images == pytest.approx(whole, rel=1e-12) and of_an_image == pytest.approx(whole, rel=1e-12)
    wider = F.pad(said, (0, 0, 0, 3), value=7.0)
    assert float(TASK.loss_sum(wider, F.pad(CAPTIONS, (0, 3), value=PAD))) == pytest.approx(whole, rel=1e-12)


def test_short_formats_are_summed_in_fp32():
    said = outputs().bfloat16()
    whole, plain = TASK.loss_sum(said, CAPTIONS), TASK.loss_sum(said[:, :, 1:], CAPTIONS)
    expected = by_hand(said.double().numpy(), CAPTIONS.numpy(), found=8)
    assert whole.dtype == torch.float32 and float(whole - plain) == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("kind", ["lstm16", "transformer32x1"])
def test_a_step_in_bf16_is_near_that_in_fp32(kind):
    model, images = captioner(kind, encoder="small-grid"), torch.rand(2, 3, 16, 16)
    losses = []
    for short in (False, True):
        model.decoder.told(CAPTIONS)
        with torch.autocast("cpu", torch.bfloat16, enabled=short):
            said = model(images)
        loss = TASK.loss_sum(said, CAPTIONS)
        model.zero_grad()
        loss.backward()
        assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
        losses.append(float(loss.detach()))
    assert said.dtype == torch.bfloat16
    assert losses[1] == pytest.approx(losses[0], rel=0.02)  # 8 bits of each number


def test_what_is_told_is_of_words_alone():
    said = outputs()
    other = said.clone()
    other[:, :, 0] = 50.0
    for found in (said, other):
        assert np.array_equal(TASK.rows(found, CAPTIONS), TASK.rows(said[:, :, 1:], CAPTIONS))
        assert TASK.hits(found, CAPTIONS) == TASK.hits(said[:, :, 1:], CAPTIONS)


@pytest.mark.parametrize("kind", ["lstm", "transformer"])
def test_an_image_has_one_score_of_a_word(kind):
    """The odds of its best cell and those by numbers of places, whatever its captions are."""
    model = captioner(f"{kind}32", encoder="small-grid").eval()
    images = torch.rand(2, 3, 16, 16)
    with torch.no_grad():
        model.decoder.told(CAPTIONS)
        said, seen = model(images), model.features(images)
        found = model.decoder.detector(seen)
        best = found.scores_bCN.amax(1)
        by_number = model.decoder.detector.number(found.places_bN) @ model.decoder.embed.weight[4:].T - 3
    assert seen.shape == (2, 4, 128) and best.shape == (2, 8)
    best = (best.exp() + by_number.exp()).log()
    for number in range(2):
        torch.testing.assert_close(said[:, number, 0, detect.FIRST :], best)
    assert not said[:, :, 0, : detect.FIRST].any()


def test_streams_know_nothing_of_each_other():
    found = detect.WordDetector(features=6, words=WORDS, streams=2, width=4)
    with torch.no_grad():
        features = torch.randn(2, 5, 6)
        own = [stream(part) for stream, part in zip(found.streams, features.chunk(2, 2))]
        features[..., 3:] += 1.0
        assert torch.equal(found.streams[0](features[..., :3]), own[0])
    assert detect.looked_for(WORDS) == 8 and detect.looked_for(10_000) == 1000


def test_cells_tell_the_words_that_they_see():
    found = detect.WordDetector(features=6, words=WORDS, streams=1, width=4)
    scores, embedding = torch.full((1, 3, 8), -100.0), torch.randn(WORDS, 4)
    scores[0, 1, 2] = 100.0  # word 6, in the second cell
    with torch.no_grad():
        told = told_of(found, scores, embedding)
    torch.testing.assert_close(told[1], embedding[6] * 2)
    assert not told[[0, 2]].any()
    scores[0, 2, 2] = scores[0, 2, 7] = 100.0  # a row of three cells: word 6 beside itself is one place
    with torch.no_grad():
        scores[0, 1, 2] = 99.0
        torch.testing.assert_close(told_of(found, scores, embedding)[1], embedding[6] * 2)
        scores[0, 0, 2], scores[0, 1, 2] = 100.0, -100.0
        one, none, both = told_of(found, scores, embedding)
    torch.testing.assert_close(one, embedding[6] * 2 + found.number.weight[:, 2])
    torch.testing.assert_close(both, (embedding[6] + embedding[11]) * 2 + found.number.weight[:, 2])
    assert not none.any()


def told_of(detector: detect.WordDetector, scores: torch.Tensor, embedding: torch.Tensor) -> torch.Tensor:
    return detector.in_words(detect.Seen(scores, detect.places(scores)), embedding)[0]


def test_places_are_counted_and_not_cells():
    scores = torch.full((2, 6, 6, 3), -20.0)
    scores[0, 1:3, 1:3, 0] = torch.tensor([[4.0, 5.0], [4.5, 4.0]])  # one thing over four cells
    scores[0, 5, 5, 0] = 6.0  # another
    scores[0, 0, 4, 1] = 5.0
    scores[1, ..., 2] = torch.linspace(-4, -3, 36).view(6, 6)  # faint everywhere
    found = detect.places(scores.flatten(1, 2))
    expected = torch.zeros(2, 3)
    expected[0, 0] = torch.tensor([5.0, 6.0]).sigmoid().square().sum()
    expected[0, 1] = torch.tensor(5.0).sigmoid().square()
    torch.testing.assert_close(found, expected, atol=0.01, rtol=0)
    assert detect.places(torch.full((1, 7, 3), -100.0)).shape == (1, 3), "no square"
    scores.requires_grad_()
    detect.places(scores.flatten(1, 2)).sum().backward()
    assert scores.grad[0, 5, 5, 0] > 0 and not scores.grad[0, 1, 1, 0], "a place is learned at its best cell"


def by_comparison(scores: torch.Tensor) -> torch.Tensor:
    """As places where no two cells side by side are equal."""
    grid = scores.mT.unflatten(2, (6, 6))
    return ((grid == F.max_pool2d(grid, 3, 1, 1)) * grid.sigmoid().square()).sum((2, 3))


@pytest.mark.parametrize("format", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("is_apart", [True, False], ids=["words apart", "as features are"])
def test_equal_cells_beside_each_other_are_one_place(format, is_apart):
    """Everywhere alike, a square, a row and two cells at a corner; and what short formats round to the same number."""
    scores = torch.full((1, 6, 6, 5), -20.0)
    scores[0, ..., 0] = 3.0
    scores[0, 2:4, 3:5, 1] = scores[0, 5, :, 2] = scores[0, 0, 0, 3] = scores[0, 1, 1, 3] = 3.0
    scores[0, 4, 4, 4], scores[0, 4, 5, 4] = 3.0, 3.002
    scores = scores.flatten(1, 2).to(format)
    assert format == torch.float32 or scores[0, 28, 4] == scores[0, 29, 4], "rounded to the same"
    if is_apart:
        scores = scores.mT.contiguous().mT
    found = detect.places(scores)
    one = torch.tensor(3.0).sigmoid().square()
    assert found.dtype == format
    torch.testing.assert_close(found.float(), one.expand(1, 5), atol=0.01, rtol=0)


def test_where_no_cells_are_equal_places_are_as_ever():
    scores = torch.randn(3, 36, 7, generator=torch.Generator().manual_seed(2))
    assert torch.equal(detect.places(scores), by_comparison(scores))
    rounded = (4 * scores).round() / 4
    assert (detect.places(rounded) <= by_comparison(rounded)).all() and (
        detect.places(rounded) < by_comparison(rounded)
    ).any()


class Places(torch.nn.Module):
    def forward(self, scores: torch.Tensor) -> torch.Tensor:
        return detect.places(scores)


def test_places_can_be_exported_and_traced():
    scores = (torch.randn(2, 36, 3, generator=torch.Generator().manual_seed(3)) * 4).round() / 4
    expected = detect.places(scores)
    for traced in (
        torch.export.export(Places(), (scores,)).module(),
        torch.compile(Places(), backend="eager", fullgraph=True),
    ):
        assert torch.equal(traced(scores), expected)


@pytest.mark.parametrize("kind", ["lstm16", "transformer32x1"])
def test_without_its_gain_it_says_and_writes_what_a_plain_one_does(kind):
    detecting, plain = captioner(kind).eval(), captioner(f"plain-{kind}").eval()
    own = detecting.state_dict()
    added = {key for key in own if key.startswith("decoder.detector.")}
    assert added == {
        f"decoder.detector.{key}"
        for key in ("gain", "number.weight", "number_bias", "streams.0.weight", "streams.0.bias")
    }
    plain.load_state_dict({key: value for key, value in own.items() if key not in added})
    images = torch.rand(2, 3, 16, 16)
    said, written = [], []
    for gain in (1.0, 0.0):
        for factor in (detecting.decoder.detector.gain, detecting.decoder.detector.number.weight):
            torch.nn.init.constant_(factor, gain)
        with torch.no_grad():
            for model in (detecting, plain):
                model.decoder.told(CAPTIONS)
                said.append(model(images)[:, :, 1 - LONGEST :])
                written.append(decode.generate(model, images, beams=2).log_probability)
    assert not torch.equal(said[0], said[1]) and not torch.equal(written[0], written[1])
    assert torch.equal(said[2], said[3]) and torch.equal(written[2], written[3])


def test_a_file_of_weights_names_the_network_that_it_fits(tmp_path):
    path = tmp_path / "whole.safetensors"
    for inside, asked, words in (
        ("plain-lstm16", "lstm16", r"in it detects no words, and small-cnn\+lstm16 does; use --model small-cnn\+plain-lstm16"),
        ("lstm16", "plain-lstm16", r"detects words, and small-cnn\+plain-lstm16 does not; use --model small-cnn\+lstm16, or"),
    ):  # fmt: skip
        weights = captioner(inside).state_dict()
        save_file({key: value + 1 for key, value in weights.items()}, path)
        with pytest.raises(ConfigError, match=words):
            captioner(asked, weights=path)
        again = captioner(inside, weights=path).state_dict()
        assert all(torch.equal(again[key], value + 1) for key, value in weights.items())


def test_streams_add_their_odds_and_the_smaller_one_learns_as_well():
    """By a maximum, a stream that lost a word by chance in the first steps would never learn it."""
    found = captioner("transformer16x1", encoder="small-grid").decoder.detector
    features = torch.randn(2, 4, 2 * found.streams[0].in_features, generator=torch.Generator().manual_seed(0))
    seen = found(features)
    each = [stream(part).exp() for stream, part in zip(found.streams, features.chunk(2, 2))]
    torch.testing.assert_close(seen.scores_bCN.exp(), each[0] + each[1])
    scores = [torch.tensor([9.0, -1.0], requires_grad=True), torch.tensor([2.0, 4.0], requires_grad=True)]
    detect._either(scores).sum().backward()
    learned = torch.stack([score.grad for score in scores])
    assert learned[0, 0] > 0.99 and learned[1, 1] > 0.99 and (learned > 0).all()
