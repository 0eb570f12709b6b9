"""Written captions against the decoder's plain forward, one by one, and against every sentence there is."""

import itertools

import pytest
import torch
from torch import Tensor

from fanlight.errors import ConfigError, RunError
from fanlight.models import decode, zoo
from fanlight.models.captioner import Captioner
from fanlight.types import END, PAD, START

KINDS = ("lstm", "transformer", "plain-transformer")
EXACT = 1e-12  # of log-probabilities in fp64: sums in another order
FEATURES, CELLS = 256, 4  # of small-cnn at 16 px


def captioner(kind: str, *, words: int = 12, longest: int = 9, seed: int = 0) -> Captioner:
    """In fp64, with weights that have opinions: fresh ones say almost the same of every image and word."""
    model = zoo.create(f"small-cnn+{kind}32x2", classes=words, image_px=16, seed=seed, longest=longest).model.double()
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in model.decoder.named_parameters():
            if p.ndim > 1 and "detector" not in name:
                p.add_(torch.randn(p.shape, generator=random, dtype=p.dtype) * (0.2 if "embed" in name else 0.6))
        model.decoder.output_bias[END] += 0.5  # or few would end
    return model.eval()


def features(rows: int, *, seed: int = 0) -> Tensor:
    return torch.randn(rows, CELLS, FEATURES, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def log_probabilities(model: Captioner, seen: Tensor, ids: Tensor) -> Tensor:
    """Of each word, by the teacher-forced forward, which has no cache: [b, T]; 0 after END."""
    words = torch.cat([torch.full_like(ids[:, :1], START), ids], 1)
    model.decoder.told(words[:, None])
    with torch.no_grad():
        log_p = model.decoder(seen)[:, 0, -ids.shape[1] :].log_softmax(2)
    return log_p.gather(2, ids[:, :, None])[:, :, 0].masked_fill(ids == PAD, 0.0)


def greedy(model: Captioner, seen: Tensor, longest: int) -> list[int]:
    """The likeliest next word again and again, all words read anew for each."""
    words = [START]
    while len(words) < longest and words[-1] != END:
        model.decoder.told(torch.tensor([[[*words, PAD]]]))
        with torch.no_grad():
            logits = model.decoder(seen)[0, 0, -1]
        logits[:END] = -torch.inf
        words.append(int(logits.argmax()))
    return words[1:] + [PAD] * (longest - len(words))


@pytest.mark.parametrize("kind", KINDS)
def test_one_beam_is_greedy_and_the_cache_changes_nothing(kind):
    model, seen = captioner(kind), features(8)
    found = decode.write(model.decoder, seen)
    assert found.ids.tolist() == [greedy(model, seen[i : i + 1], longest=9) for i in range(8)]
    assert len({*map(tuple, found.ids.tolist())}) > 4, "the images should decide"
    assert len({row.count(PAD) for row in found.ids.tolist()}) > 1, "captions should be of several lengths"
    expected = log_probabilities(model, seen, found.ids).sum(1)
    assert (found.log_probability - expected).abs().max() < EXACT


@pytest.mark.parametrize("beams", [2, 5])
@pytest.mark.parametrize("kind", KINDS)
def test_a_beams_sum_is_that_of_its_caption(kind, beams):
    model, seen = captioner(kind), features(16)
    found, narrow = (decode.write(model.decoder, seen, beams=each) for each in (beams, 1))
    expected = log_probabilities(model, seen, found.ids).sum(1)
    assert (found.log_probability - expected).abs().max() < EXACT
    score, narrow_score = (each.log_probability / (each.ids != PAD).sum(1) for each in (found, narrow))
    assert (score > narrow_score + 1e-6).any(), "several beams should find what one does not"


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_batched_is_one_by_one(kind, beams):
    model, seen = captioner(kind), features(7)
    found = decode.write(model.decoder, seen, beams=beams)
    for i in range(7):
        alone = decode.write(model.decoder, seen[i : i + 1], beams=beams)
        assert alone.ids[0].tolist() == found.ids[i].tolist()
        assert abs(alone.log_probability[0] - found.log_probability[i]) < EXACT
        assert (alone.attention[0] - found.attention[i]).abs().max() < EXACT


@pytest.mark.parametrize("power", [0.0, 0.7, 1.0])
@pytest.mark.parametrize("kind", KINDS)
def test_a_wide_beam_finds_the_best_of_all_sentences(kind, power):
    """Of at most 4 words, UNK and 3 others: 1 + 4 + 16 + 64 that ended, and 256 that were cut off."""
    model, most, words = captioner(kind, words=7, longest=5), 4, range(3, 7)
    seen = features(3)
    every = [
        [*inside, *end]
        for count in range(most + 1)
        for inside in itertools.product(words, repeat=count)
        for end in ([[END]] if count < most else [[]])
    ]
    ids = torch.tensor([row + [PAD] * (most - len(row)) for row in every])
    found = decode.write(model.decoder, seen, beams=len(every), length_power=power)
    for i in range(3):
        sums = log_probabilities(model, seen[i : i + 1].expand(len(every), -1, -1), ids).sum(1)
        score = sums / (ids != PAD).sum(1) ** power
        assert found.ids[i].tolist() == ids[score.argmax()].tolist()
        assert abs(found.log_probability[i] - sums[score.argmax()]) < EXACT


@pytest.mark.parametrize("beams", [1, 4])
@pytest.mark.parametrize("kind", KINDS)
def test_pad_and_start_are_never_written_and_end_closes(kind, beams):
    model, seen = captioner(kind), features(16)
    with torch.no_grad():
        model.decoder.output_bias[[PAD, START]] += 50.0  # what the decoder would say by far
    for row in decode.write(model.decoder, seen, beams=beams).ids.tolist():
        end = row.index(END) if END in row else len(row)
        assert PAD not in row[:end] and START not in row and not any(row[end + 1 :])


def test_a_caption_without_end_is_cut_off():
    model, seen = captioner("transformer"), features(3)
    with torch.no_grad():
        model.decoder.output_bias[END] -= 100.0
    found = decode.write(model.decoder, seen, beams=3, longest=6)
    assert found.ids.shape == (3, 5) and not (found.ids <= END).any()


@pytest.mark.parametrize("kind", KINDS)
def test_it_stops_when_all_images_are_done(kind, monkeypatch):
    model, seen, steps = captioner(kind), features(4), []
    with torch.no_grad():
        model.decoder.output_bias[END] += 100.0
    step = type(model.decoder).step
    monkeypatch.setattr(type(model.decoder), "step", lambda *given: steps.append(1) or step(*given))
    found = decode.write(model.decoder, seen, beams=3)
    assert found.ids.tolist() == [[END] + [PAD] * 7] * 4 and len(steps) == 1


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_attention_is_of_each_word(kind, beams):
    model, seen = captioner(kind), features(5)
    found = decode.write(model.decoder, seen, beams=beams)
    sums = found.attention.sum(2)
    assert found.attention.shape == (5, 8, CELLS) and found.attention.min() >= 0
    assert torch.allclose(sums, (found.ids != PAD).double(), atol=1e-12, rtol=0)
    # It is that of the caption itself: told those words one after the other, the decoder looks at the same cells.
    state = model.decoder.start(seen, captions=1)
    word = torch.full((5, 1), START)
    with torch.no_grad():
        for t in range(8):
            _, attention = model.decoder.step(word, state)
            inside = found.ids[:, t] != PAD
            if inside.any():
                assert (attention[:, 0] - found.attention[:, t])[inside].abs().max() < EXACT
            word = found.ids[:, t : t + 1]


@pytest.mark.parametrize("kind", KINDS)
def test_captions_are_of_their_images(kind):
    model = captioner(kind)
    images = torch.randn(6, 3, 16, 16, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    found, turned = (decode.generate(model, each, beams=2) for each in (images, images.flip(0)))
    assert torch.equal(found.ids, turned.ids.flip(0))
    assert (found.log_probability - turned.log_probability.flip(0)).abs().max() < EXACT
    assert (found.log_probability - turned.log_probability).abs().max() > 1e-3


def test_bf16_writes_in_its_precision():
    model, seen = captioner("transformer").float(), features(4).float()
    with torch.autocast("cpu", torch.bfloat16):
        found = decode.write(model.decoder, seen, beams=2)
    assert found.log_probability.dtype == torch.float32 and found.log_probability.isfinite().all()


def test_what_cannot_be_written():
    model, seen = captioner("lstm"), features(2)
    with pytest.raises(ConfigError, match=r"captions of 10 words with START and END cannot be written: .* made for 9"):
        decode.write(model.decoder, seen, longest=10)
    with pytest.raises(ConfigError, match="0 beams cannot write a caption; 1 is greedy"):
        decode.write(model.decoder, seen, beams=0)
    with pytest.raises(ValueError, match="images of 3 grid cells, the decoder was made for 4"):
        decode.write(model.decoder, seen[:, :3])
    with torch.no_grad():
        model.decoder.output_bias[5] = torch.nan
    with pytest.raises(RunError, match="log-probabilities are not finite"):
        decode.write(model.decoder, seen, beams=2)
    with pytest.raises(RuntimeError, match=r"call eval\(\) before"):
        decode.write(model.train().decoder, seen)
