"""Captioners: what a decoder may see of words and images, and that every way to compute one computes the same."""

import copy
import threading
import weakref

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from fanlight.data import vocabulary
from fanlight.data.vocabulary import Vocabulary
from fanlight.errors import ConfigError
from fanlight.models import cut, freeze, keyed, recompute, tail, told, zoo
from fanlight.models.captioner import Captioner
from fanlight.models.keyed import Keys
from fanlight.tasks.caption import Caption
from fanlight.types import END, PAD, START

KINDS = ("lstm", "transformer", "plain-lstm", "plain-transformer")
EXACT = 1e-12  # of logits in fp64: sums of another number of rows
PX, WORDS, LONGEST = 16, 20, 9


def captioner(kind: str, *, encoder: str = "small-cnn") -> Captioner:
    name = f"{encoder}+{kind}32x2"
    model = zoo.create(name, classes=WORDS, image_px=PX, seed=0, longest=LONGEST).model.double()
    assert isinstance(model, Captioner)
    return model


def keyed_captioner(kind: str) -> tuple[Captioner, Keys]:
    """In training mode, its norms in eval mode: they mix the rows of a batch, and are tested elsewhere."""
    model = captioner(kind)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.1  # also of narrow decoders
    keys = keyed.install(model)
    model.train()
    model.encoder.eval()
    return model, keys


def batch(rows: int = 4, captions: int = 3, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Images, and words [b, k, LONGEST] of several lengths; the last slot of the first image is no caption."""
    random = torch.Generator().manual_seed(seed)
    images = torch.randn(rows, 3, PX, PX, generator=random, dtype=torch.float64)
    words = torch.randint(4, WORDS, (rows, captions, LONGEST), generator=random)
    lengths = torch.randint(1, LONGEST - 2, (rows, captions), generator=random)  # between START and END
    place = torch.arange(LONGEST)
    words[:, :, 0] = START
    words = words.masked_fill(place == lengths[:, :, None] + 1, END).masked_fill(place > lengths[:, :, None] + 1, PAD)
    words[0, -1] = PAD
    return images, words


def set_keys(keys: Keys, samples: Tensor) -> None:
    keys.set(seed=1, epoch=2, samples=samples)


def loss_of(outputs: Tensor, words: Tensor) -> Tensor:
    task = Caption(
        Vocabulary((*vocabulary.SPECIAL, *map(str, range(4, WORDS)))), longest=LONGEST - 2, per_image=3, beams=1
    )
    return task.loss_sum(outputs, words)


def next_words(outputs: Tensor, words: Tensor) -> Tensor:
    """[b, k, L - 1, V], without what is said of the image."""
    return outputs[:, :, outputs.shape[2] - words.shape[2] + 1 :]


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad(set_to_none=True)
    return found


def apart(found: dict[str, Tensor], expected: dict[str, Tensor]) -> float:
    """‖found − expected‖ / ‖expected‖ over all tensors together."""
    assert found.keys() == expected.keys()
    first, second = (torch.cat([each[name].flatten() for name in expected]) for each in (found, expected))
    return float((first - second).norm() / second.norm())


@pytest.mark.parametrize("kind", KINDS)
def test_logits_are_of_the_next_word_and_need_no_copy(kind):
    model, (images, words) = captioner(kind), batch()
    model.decoder.told(words.to(torch.int16))
    outputs = model(images)
    assert outputs.shape == (4, 3, LONGEST - kind.startswith("plain"), WORDS) and outputs.is_contiguous()
    loss_of(outputs, words).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None or not p.grad.isfinite().all()]


@pytest.mark.parametrize("kind", KINDS)
def test_no_word_is_seen_before_its_turn(kind):
    """Also not PAD, END, or what follows it."""
    model, (images, words) = captioner(kind).eval(), batch()
    model.decoder.told(words)
    before = next_words(model(images), words)
    for place in range(1, LONGEST):
        other = words.clone()
        other[:, :, place] = (other[:, :, place] + 5) % WORDS
        model.decoder.told(other)
        after = next_words(model(images), words)
        assert torch.equal(after[:, :, :place], before[:, :, :place])
        if place < LONGEST - 1:
            assert (after[:, :, place] - before[:, :, place]).abs().amax((0, 2)).min() > 1e-3


@pytest.mark.parametrize("kind", KINDS)
def test_further_padding_changes_nothing(kind):
    model, keys = keyed_captioner(kind)
    images, words = batch()
    found = []
    for longest in (LONGEST - 1, LONGEST):  # no caption of the batch is longer
        cut_off = words[:, :, :longest]
        assert (words[:, :, longest:] == PAD).all()
        set_keys(keys, torch.arange(4))
        model.decoder.told(cut_off)
        logits = model(images)
        loss_of(logits, cut_off).backward()
        found.append((next_words(logits, cut_off)[:, :, : LONGEST - 2], gradients(model)))
    assert (found[0][0] - found[1][0]).abs().max() < EXACT
    assert apart(found[0][1], found[1][1]) < EXACT


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_images_changes_nothing(kind):
    model, keys = keyed_captioner(kind)
    images, words = batch()
    order = torch.tensor([2, 0, 3, 1])
    found = []
    for each in (torch.arange(4), order):
        set_keys(keys, each)
        model.decoder.told(words[each])
        logits = model(images[each])
        loss_of(logits, words[each]).backward()
        found.append((logits, gradients(model)))
    assert (found[0][0][order] - found[1][0]).abs().max() < EXACT
    assert apart(found[0][1], found[1][1]) < EXACT


@pytest.mark.parametrize("kind", KINDS)
def test_the_captions_of_an_image_do_not_see_each_other(kind):
    model, (images, words) = captioner(kind).eval(), batch()
    model.decoder.told(words)
    together = model(images)
    for number in range(3):
        model.decoder.told(words[:, number : number + 1])
        assert (model(images)[:, 0] - together[:, number]).abs().max() < EXACT


@pytest.mark.parametrize("kind", KINDS)
def test_a_slot_without_a_caption_counts_nothing(kind):
    model, (images, words) = captioner(kind).eval(), batch()
    words[:, 2] = PAD
    found = []
    for each in (words, words[:, :2]):
        model.decoder.told(each)
        loss = loss_of(model(images), each)
        loss.backward()
        found.append((loss, gradients(model)))
    assert (found[0][0] - found[1][0]).abs() < EXACT * found[0][0]
    assert apart(found[0][1], found[1][1]) < EXACT


@pytest.mark.parametrize("kind", KINDS)
def test_it_looks_at_the_image_and_at_each_cell(kind):
    model, (images, words) = captioner(kind).eval(), batch()
    with torch.no_grad():
        model.decoder.told(words)
        seen = model.features(images)
        assert seen.shape == (4, 4, 256)
        own = model.decoder(seen)
        assert torch.equal(own, model(images))
        shuffled = model.decoder(seen.roll(1, 0))
        assert (shuffled - own).abs().amax((1, 2, 3)).min() > 1e-3
        for cell in range(4):
            changed = seen.clone()
            changed[:, cell] = seen[:, cell].flip(1)
            apart = next_words(model.decoder(changed) - own, words)
            assert apart.abs().amax((1, 3)).min() > 1e-6, "every word, of every image"
        assert (model.decoder(seen.roll(1, 1)) - own).abs().max() > 1e-4, "where a cell is should count"


@pytest.mark.parametrize("kind", KINDS)
def test_dropout_is_of_the_sample(kind):
    model, keys = keyed_captioner(kind)
    assert not keyed.unkeyed(model)
    images, words = batch()
    found = []
    for samples in (torch.arange(4), torch.arange(4), torch.tensor([0, 1, 2, 9])):
        set_keys(keys, samples)
        model.decoder.told(words)
        found.append(model(images))
    assert torch.equal(found[0], found[1]) and torch.equal(found[0][:3], found[2][:3])
    assert not torch.equal(found[0][3], found[2][3])
    assert not torch.equal(found[0], model.eval()(images))


@pytest.mark.parametrize("kind", KINDS)
def test_stages_with_several_microbatches_in_flight(kind):
    """Forwards of both before the backward of the first, as a pipeline has them; blocks forget and compute again."""
    model = captioner(kind)
    keys = keyed.install(model)
    batches = [batch(seed=seed) for seed in (1, 2)]

    def play(chain: list, order: str) -> dict[str, Tensor]:
        open_: dict[int, Tensor] = {}
        for action in order.split():
            number = int(action[1])
            images, words = batches[number]
            if action[0] == "f":
                set_keys(keys, torch.arange(4) + 10 * number)
                model.decoder.told(words)
                x = images
                for part in chain:
                    x = part(x)
                open_[number] = loss_of(x, words)
            else:
                open_.pop(number).backward()
        return gradients(model)

    example = batches[0][0]
    set_keys(keys, torch.arange(4))
    model.decoder.told(batches[0][1])
    names = cut.cuts(model, example)
    assert names == [f"encoder.groups.{i}" for i in range(3)], "the decoder is one piece"
    parts = cut.stages(model, names, example)
    cut.check(model, parts, example)
    model.train()
    expected = play([model], "f0 b0 f1 b1")
    assert apart(play(parts, "f0 f1 b0 b1"), expected) == 0
    recompute.install(model, keys)
    assert apart(play(parts, "f0 f1 b1 b0"), expected) < EXACT  # in another order


@pytest.mark.parametrize("kind", KINDS)
def test_a_frozen_encoder_and_its_features(kind):
    model, (images, words) = captioner(kind), batch()
    assert zoo.head(model) == "decoder"
    tail.check(model, images)
    freeze.freeze(model)
    freeze.train_mode(model)
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert trained == {name for name, _ in model.named_parameters() if name.startswith("decoder.")}
    assert model.decoder.training and not model.encoder.training
    model.eval()
    seen, last = tail.features(model, images), tail.Tail(model)  # asks for no words
    told.words_of(last).set(words)
    assert torch.equal(last(seen), model(images)) and torch.equal(seen, model.features(images))


@pytest.mark.parametrize("kind", KINDS)
def test_bf16_and_channels_last(kind):
    name = f"resnet18+{kind}32x2"
    model = zoo.create(name, classes=WORDS, image_px=64, seed=0, longest=LONGEST).model.eval()
    images, words = torch.rand(4, 3, 64, 64), batch()[1]
    model.decoder.told(words)
    with torch.no_grad():
        exact = model(images).log_softmax(3)
        model.to(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(images.to(memory_format=torch.channels_last))
    assert logits.dtype == torch.bfloat16 and logits.is_contiguous()
    assert (logits.float().log_softmax(3) - exact).abs().mean() < 0.03


CELLS = {  # of 64 px
    "resnet18": 4,
    "vit_tiny_patch16_224": 16,
    "convnext_atto": 4,
    "mobilenetv3_small_050": 4,
    "small-resnet": 256,
}


@pytest.mark.parametrize("encoder", CELLS)
def test_every_weight_of_an_encoder_has_a_gradient(encoder):
    """What the features do not need is gone: replicas would wait for its gradient."""
    model = zoo.create(f"{encoder}+lstm16", classes=WORDS, image_px=64, seed=0, longest=LONGEST).model
    assert all(module.training for module in model.modules())
    words = batch()[1]
    model.decoder.told(words)
    loss_of(model(torch.rand(4, 3, 64, 64)), words).backward()
    assert not [name for name, p in model.named_parameters() if p.grad is None]
    assert model.eval().features(torch.rand(2, 3, 64, 64)).shape[1] == CELLS[encoder]


def test_features_are_read_row_by_row():
    model = zoo.create("resnet18+lstm16", classes=WORDS, image_px=64, seed=0).model.eval()
    with torch.no_grad():
        images = torch.rand(2, 3, 64, 96)
        seen, whole = model.features(images), model.encoder.forward_features(images)
    assert seen.shape == (2, 6, 512)
    assert torch.equal(seen[:, 4], whole[:, :, 1, 1])


def test_images_of_another_size_are_refused():
    model = zoo.create("small-cnn+transformer32x1", classes=WORDS, image_px=32, seed=0).model
    assert zoo.refusal(model, 32, classes=WORDS) == ""
    assert zoo.refusal(model, 48, classes=WORDS) == "images of 25 grid cells, the decoder was made for 9"


def test_words_are_of_the_thread_and_of_the_batch():
    model, (images, words) = captioner("lstm").eval(), batch()
    with pytest.raises(RuntimeError, match=r"before it was told its words: call told\(words\) before the forward"):
        model(images)
    model.decoder.told(words)
    with pytest.raises(ValueError, match="got 2 images, its words are of 4: tell it the words of this very batch"):
        model(images[:2])
    model.decoder.told(F.pad(words, (0, 1)))
    with pytest.raises(ValueError, match="captions of 10 words with START and END, the decoder was made for 9"):
        model(images)
    for wrong in (words.float(), words[0], words[:, :, :1]):
        with pytest.raises(ValueError, match=r"words should be integers \[b, k, L\] with L of 2 and more"):
            model.decoder.told(wrong)
    with torch.no_grad():
        model.decoder.told(words)
        expected, found = model(images), []
        met = threading.Barrier(2)

        def other() -> None:
            with torch.no_grad():
                model.decoder.told(words[1:])
                met.wait(10)  # both have told
                found.append(model(images[1:]))

        thread = threading.Thread(target=other)
        thread.start()
        met.wait(10)
        assert torch.equal(model(images), expected)
        thread.join()
    assert (found[0] - expected[1:]).abs().max() < EXACT
    copied = copy.deepcopy(model)
    copied.decoder.told(words[:1])
    assert len(told.words_of(model).of(4, images.device)) == 4


def test_words_of_threads_that_ended_are_let_go():
    words = told.Words()
    before: list[weakref.ref[torch.Tensor]] = []

    def tell() -> None:
        mine = torch.ones(1, 1, 2, dtype=torch.int64)
        before.append(weakref.ref(mine))
        words.set(mine)

    for _ in range(3):
        thread = threading.Thread(target=tell)
        thread.start()
        thread.join()
    words.set(torch.full((1, 1, 2), 2))
    assert [each() for each in before] == [None] * 3
    assert words.of(1, torch.device("cpu")).tolist() == [[[2, 2]]]


def test_names():
    zoo.check_name("resnet18+lstm")
    zoo.check_name("small-cnn+transformer64x2")
    with pytest.raises(
        ConfigError, match=r"model 'resnet18\+gru': there is no decoder 'gru'; there are lstm, transformer"
    ):
        zoo.check_name("resnet18+gru")
    with pytest.raises(ConfigError, match=r"Near names: transformer"):
        zoo.check_name("resnet18+transfomer")
    with pytest.raises(ConfigError, match="model 'resnet81' is unknown"):
        zoo.check_name("resnet81+lstm")
    for name in ("lenet5+lstm", "alexnet+lstm"):
        with pytest.raises(
            ConfigError, match=f"{name[:-5]} cannot be a captioner's encoder: it tells no grid of features"
        ):
            zoo.create(name, classes=WORDS, image_px=64, seed=0)
    with pytest.raises(ConfigError, match="width 202 does not divide into heads"):
        zoo.create("small-cnn+transformer202", classes=WORDS, image_px=16, seed=0)
    with pytest.raises(
        ConfigError, match=r"captions of 2 words \(START and END\) and a vocabulary of 5 at least, got 1 and 20"
    ):
        zoo.create("small-cnn+lstm", classes=WORDS, image_px=16, seed=0, longest=1)
    model = zoo.create("small-cnn+transformer128x2", classes=WORDS, image_px=16, seed=0, longest=7).model
    assert (model.decoder.width, len(model.decoder.blocks), model.decoder.longest) == (128, 2, 7)
    assert model.decoder.blocks[0].attn.num_heads == 4


def test_weights_are_those_of_the_seed():
    states = [
        zoo.create("small-cnn+lstm", classes=WORDS, image_px=16, seed=seed).model.state_dict() for seed in (0, 0, 1)
    ]
    assert all(torch.equal(states[0][key], states[1][key]) for key in states[0])
    assert not torch.equal(states[0]["decoder.embed.weight"], states[2]["decoder.embed.weight"])
    # One matrix is both embedding and output, under one name, so that files and shards hold it once.
    wide = [key for key, value in states[0].items() if value.shape[:1] == (WORDS,) and value.ndim == 2]
    assert wide == ["decoder.embed.weight"]


def test_weights_from_a_file(tmp_path):
    alone = zoo.create("small-cnn", classes=7, image_px=16, seed=5).model
    save_file(alone.state_dict(), tmp_path / "net.safetensors")
    created = zoo.create("small-cnn+lstm", classes=WORDS, image_px=16, seed=0, weights=tmp_path / "net.safetensors")
    own = created.model.encoder.state_dict()
    assert own and all(torch.equal(value, alone.state_dict()[key]) for key, value in own.items())
    assert created.notes == [f"weights from {tmp_path / 'net.safetensors'}"]
    save_file(created.model.state_dict(), tmp_path / "whole.safetensors")
    again = zoo.create(
        "small-cnn+lstm", classes=WORDS, image_px=16, seed=9, weights=tmp_path / "whole.safetensors"
    ).model
    assert all(torch.equal(value, created.model.state_dict()[key]) for key, value in again.state_dict().items())
    with pytest.raises(ConfigError, match=r"whole\.safetensors: .* weights have other shapes \(decoder\."):
        zoo.create("small-cnn+lstm", classes=WORDS + 1, image_px=16, seed=0, weights=tmp_path / "whole.safetensors")
    with pytest.raises(ConfigError, match=r"whole\.safetensors: .* weights are (missing|not of this model)"):
        zoo.create("small-cnn+transformer", classes=WORDS, image_px=16, seed=0, weights=tmp_path / "whole.safetensors")
