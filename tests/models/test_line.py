"""Networks as one line of text: to layers and back, shapes, and what a mistake says."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fanlight.errors import ConfigError
from fanlight.models import line, line_net, small, zoo
from fanlight.models.line import Activation, Block, Conv, Dense, Dropout, Line, Norm, Pool

few = st.integers(1, 9)
convolutions = st.builds(Conv, st.integers(1, 512), few, few, st.integers(0, 9), few, few)
poolings = st.integers(2, 9).flatmap(
    lambda kernel: st.builds(Pool, st.booleans(), st.just(kernel), st.integers(1, 9), st.integers(0, kernel // 2))
)
whole = st.builds(Pool, st.booleans(), st.just(0), st.just(0))
plain = st.one_of(
    convolutions, poolings, whole, st.builds(Dense, st.none() | st.integers(1, 4096)), st.just(Norm()),
    st.builds(Activation, st.sampled_from(["relu", "tanh", "gelu"])),
    st.builds(Dropout, st.integers(1, 999_999).map(lambda parts: parts / 1_000_000)),
)  # fmt: skip
layers = st.recursive(
    plain, lambda inner: st.builds(Block, st.lists(inner, min_size=1, max_size=3).map(tuple)), max_leaves=6
)


@given(st.lists(layers, min_size=1, max_size=6).map(tuple))
def test_a_printed_line_reads_as_the_same_layers(found):
    text = str(Line(found, ""))
    assert line.parse(text) == Line(found, "")
    assert str(line.parse(f"  {text.replace(' ', chr(10) + ' ')} ")) == text


@given(st.text(alphabet="convpldsbrtuagk[]x .0123456789\n", max_size=40))
def test_any_text_is_read_or_refused_with_a_caret(text):
    try:
        found = line.parse(text)
    except ConfigError as error:
        first, *rest = str(error).split("\n")
        assert first and (not rest or (len(rest) == 2 and "^" in rest[1] and len(rest[1]) <= len(rest[0])))
    else:
        assert line.parse(str(found)) == found


def refused(text: str, *, image=(3, 28, 28), classes=10) -> tuple[str, str]:
    """What is said, and the word that the caret is under."""
    with pytest.raises(ConfigError) as caught:
        line.place(line.parse(text), image=image, classes=classes)
    said, shown, caret = str(caught.value).split("\n")
    return said, shown[caret.index("^") : caret.rindex("^") + 1]


def test_the_caret_is_where_a_terminal_draws_the_word():
    with pytest.raises(ConfigError) as caught:
        line.parse("卷积16 dense")
    assert str(caught.value).split("\n")[2] == "  ^^^^^^"  # two letters of two places each
    with pytest.raises(ConfigError) as caught:
        line.of("conv4k3 卷积 dense")
    assert str(caught.value).split("\n")[2] == "          ^^^^"


@pytest.mark.parametrize("at", [0, 30, 2000, 3999])
def test_of_a_long_line_what_is_near_the_mistake_is_shown(at):
    words = ["relu"] * 4000
    words[at] = "rellu"
    with pytest.raises(ConfigError) as caught:
        line.parse(" ".join(words))
    said, shown, caret = str(caught.value).split("\n")
    assert "'rellu' is no layer" in said and len(shown) < 200
    assert shown[caret.index("^") : caret.rindex("^") + 1] == "rellu"


def test_a_word_without_end_is_shortened():
    for text in ("relu" * 10_000, "x " + "dense" * 10_000, "relu" * 10_000 + " dense"):
        with pytest.raises(ConfigError) as caught:
            line.of(text)
        assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("text", "word", "said"),
    [
        ("conv16k3 relu pol2 dense", "pol2", "'pol2' is no layer; Near names: pool"),
        ("conv16k3\n  rellu pool2 dense", "rellu", "Near names: relu"),
        ("Conv16k3 dense", "Conv16k3", "there are conv, pool, avgpool"),
        ("conv16 dense", "conv16", "needs filters and a kernel, such as conv16k3"),
        ("convk3 dense", "convk3", "is no layer"),
        ("conv16k3k5 dense", "conv16k3k5", "gives its kernel twice"),
        ("conv16k3z2 dense", "conv16k3z2", "k kernel, s stride, p padding, d dilation, g groups"),
        ("conv0k3 dense", "conv0k3", "0 should be a whole number from 1 to 65,536"),
        ("conv9999999999k3 dense", "conv9999999999k3", "9999999999 should be a whole number"),
        ("relu2 dense", "relu2", "relu takes no number"),
        ("dropout5 dense", "dropout5", "needs a share between 0 and 1"),
        ("dropout.0 dense", "dropout.0", "needs a share between 0 and 1"),
        ("pool4p3 dense", "pool4p3", "padding 3 is more than half of a window of 4"),
        ("[ conv16k3 relu", "[", "a block begins here that never ends"),
        ("conv16k3 ] dense", "]", "a block ends here that never began"),
        ("[ ] dense", "]", "a block without layers"),
        ("[" * 9 + "bn" + "]" * 9, "[", "more than 8 blocks stand in each other"),
        ("conv16k3 dense10 relu", "relu", "a network ends in `dense`, an output per class"),
        ("conv16k3 dense12", "dense12", "dense12 gives 12 outputs and the data has 10 classes"),
        ("dense dense10", "dense", "only the last `dense` may leave its number open"),
        ("dense128 conv8k3 dense", "conv8k3", r"takes images [C, H, W], and [128] reaches it"),
        ("conv16k3 pool2 conv32k14 dense", "conv32k14", "sees 14 × 14 pixels, and [16, 13, 13] reaches it"),
        ("conv8k9d4 dense", "conv8k9d4", "sees 33 × 33 pixels, and [3, 28, 28] reaches it"),
        ("[ conv8k3p1 relu ] dense", "[ conv8k3p1 relu ]", "[8, 28, 28] does not fit [3, 28, 28]"),
        ("pool dense", "pool", "sees 28 × 2800 pixels, 65,536 at most"),
        ("conv8k3g2 dense", "conv8k3g2", "2 groups have to divide 3 channels in and 8 out"),
    ],
)  # fmt: skip
def test_a_mistake_points_at_its_word(text, word, said):
    found = refused(text, image=(3, 28, 2800) if text == "pool dense" else (3, 28, 28))
    assert said in found[0] and found[1] == word


def test_an_empty_line_and_letters_that_cannot_be_printed_are_refused():
    with pytest.raises(ConfigError, match="line is empty; one is 'conv16k3"):
        line.parse("  ")
    with pytest.raises(ConfigError, match=r"cannot be printed"):
        line.parse("conv16k3\x1b[2J dense")


@pytest.mark.parametrize("name", ["referense", "dense128dense", "resnet18"])
def test_what_is_neither_a_line_nor_a_name_says_both(name):
    with pytest.raises(ConfigError, match=f"network '{name}' is neither a line .* nor one of reference, lenet5"):
        line.of(name)


@settings(max_examples=20)
@given(st.integers(12, 40), st.integers(2, 5))
def test_shapes_are_those_of_the_modules(px, classes):
    text = line.parse(
        "conv6k3s2p1 bn relu avgpool3s1p1 [ conv6k3p2d2g3 gelu [ bn ] ] pool2 conv8k1 tanh pool bn dropout.25 dense7 bn dense"
    )
    placed = line.place(text, image=(3, px, px), classes=classes)
    model = line_net.build(text, image=(3, px, px), classes=classes).eval()
    x = torch.zeros((2, 3, px, px))
    of_name = {each.name: each for each in placed}
    for name, module in model.named_children():
        assert x[0].numel() == math.prod(of_name[name.removeprefix("flat")].x)
        x = module(x)
        assert name.startswith("flat") or tuple(x.shape[1:]) == of_name[name].y
    wanted = {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}
    found = {name: shape for each in line.walk(placed) for name, shape in line.weights(each).items()}
    assert found == wanted and line.parameters(placed) == sum(p.numel() for p in model.parameters())


NAMED = [("reference", "scratch-cnn", 28), ("lenet5", "lenet5", 32), ("weather", "weather-lenet", 256)]


@pytest.mark.parametrize(("name", "own", "px"), NAMED)
def test_named_networks_are_the_projects(name, own, px):
    """As many parameters in each layer as the modules that were written for `train`, but for biases before a norm."""
    made = zoo.create(line.NAMED[name], classes=11, image_px=px, seed=0).model
    other = small.NAMES[own](11, px)
    shapes = [[tuple(p.shape) for p in model.parameters() if p.dim() > 1] for model in (made, other)]
    assert shapes[0] == shapes[1]


def test_a_line_is_a_model_by_name():
    made = zoo.create("conv4k3 relu pool2 dense", classes=3, image_px=8, seed=1).model
    again = zoo.create("conv4k3  relu pool2\tdense3", classes=3, image_px=8, seed=1).model
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), again.parameters(), strict=True))
    assert made(torch.zeros(2, 3, 8, 8)).shape == (2, 3)
    with pytest.raises(ConfigError, match=r"conv4k9 sees 9 × 9 pixels, and \[3, 8, 8\] reaches it(?s:.*)\^{7}"):
        zoo.create("conv4k9 dense", classes=3, image_px=8, seed=1)
    assert zoo.head(made) == "3"
