"""Options of one value that are given several times."""

import pytest

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("--recipe", "fast", "--recipe", "fine-tune"), "--recipe"),
        (("--epochs=1", "--lr", "1", "--epochs=2"), "--epochs"),
        (("--pack", "--no-pack"), "--pack or --no-pack"),
    ],
)
def test_an_option_of_one_value_that_is_repeated_is_told(fanlight, words, name):
    answer = fanlight("train", "photos", "--print-config", *words)
    told = f"Warning: {name} is given 2 times. It has one value, and the last is used. Leave the others out.\n"
    assert (answer.code, answer.err) == (0, told)
    if name != "--epochs":
        assert answer.out == fanlight("train", "photos", "--print-config", *words[len(words) // 2 :]).out
