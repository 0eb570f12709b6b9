"""What is chosen for images with captions."""

import json

import pytest

from train.test_resolve import choose

pytest_plugins = ["train.fixtures"]
SAID = {"captions": json.dumps(["a red circle", "a circle that is red"]), "classes": ("",)}


def test_small_images_have_a_network_that_learns_by_many_steps():
    choices = choose(px=64, **SAID)
    found = choices.config
    assert (found.model.name, found.train.batch_size, found.optim.lr) == ("small-grid+transformer64x2", 32, 0.004)
    assert (found.optim.beta2, found.optim.weight_decay) == (0.98, 0.02) and "steps" in choices.reasons["optim.beta2"]
    larger = choose({"train.batch_size": 128}, px=64, **SAID).config
    assert larger.optim.lr == 0.008
    other = choose({"model.name": "small-cnn+lstm"}, px=64, **SAID).config
    assert (other.train.batch_size, other.optim.lr, other.optim.beta2) == (64, 0.001, 0.999)
    asked = choose({"optim.beta2": 0.999, "optim.weight_decay": 0.1}, px=64, **SAID).config
    assert (asked.optim.beta2, asked.optim.weight_decay) == (0.999, 0.1)
    assert choose({"optim.name": "sgd"}, px=64, **SAID).config.optim.beta2 == 0.999


@pytest.mark.parametrize(("train", "batch"), [(1, 1), (3, 1), (16, 4), (127, 31), (128, 32), (5_000, 32)])
def test_what_is_chosen_fits_few_images(train, batch):
    """Chosen by itself it is never more than there are, which would be refused."""
    choices = choose(count=train + 1, train=train / (train + 1), px=64, **SAID)
    assert choices.config.train.batch_size == batch and choices.config.model.name == "small-grid+transformer64x2"
    assert choices.config.optim.lr == pytest.approx(0.004 * (batch / 32) ** 0.5, rel=5e-3)  # three digits are kept


def test_small_images_come_in_any_order_and_photos_by_the_length_of_their_sentences():
    assert choose(px=64, **SAID).config.caption.window == 1
    assert choose(px=300, **SAID).config.caption.window == 32
    assert choose({"caption.window": 4}, px=64, **SAID).config.caption.window == 4
    assert choose(px=64).config.caption.window is None


def test_a_default_run_on_small_images_is_of_minutes():
    few, many = (choose(count=count, px=64, **SAID).config.train.epochs for count in (3_000, 15_000))
    assert (few, many) == (25, 5)
    large = choose({"model.name": "small-grid+transformer64x2"}, count=3_000, **SAID).config
    assert large.data.image_px > 64 and large.train.epochs == 6, "which takes more than a small image does"
