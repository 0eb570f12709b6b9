"""Chances of training images, from classes or from a list's weights; what is wrong with weights is named."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fanlight.data import sampling
from fanlight.data.formats import recognise
from fanlight.data.manifest import Manifest
from fanlight.data.scan import scan
from fanlight.errors import DataError


def listed(root: Path, weights: list[str] | None, *, splits: str = "tttv") -> Manifest:
    """Four images, two classes; the manifest of a list of them."""
    lines = ["path,label,split" + (",weight" if weights else "")]
    for number, split in enumerate(splits):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(root / f"{number}.png")
        row = [f"{number}.png", "cat" if number % 2 else "dog", {"t": "train", "v": "val"}[split]]
        lines.append(",".join(row + (weights[number : number + 1] if weights else [])))
    (root / "list.csv").write_text("\n".join(lines))
    return scan(recognise(str(root / "list.csv"), cache=root), workers=1)


def test_an_epoch_has_no_draws(tmp_path: Path) -> None:
    manifest = listed(tmp_path, ["bad", "", "-1", "0"])
    assert sampling.draws(manifest, manifest.rows("train"), sampling="epoch") is None


def test_balanced_classes_are_equally_likely(tmp_path: Path) -> None:
    manifest = listed(tmp_path, None)
    found = sampling.draws(manifest, manifest.rows("train"), sampling="balanced")
    assert found is not None
    assert found.chances.tolist() == [0.5, 1.0, 0.5] and found.strata.tolist() == [1, 0, 1]


def test_weights_of_training_images_are_taken_as_they_are(tmp_path: Path) -> None:
    manifest = listed(tmp_path, ["2", "0", "1e-3", "of no account"])
    found = sampling.draws(manifest, manifest.rows("train"), sampling="weighted")
    assert found is not None
    assert found.chances.tolist() == [2, 0, 1e-3] and found.strata.tolist() == [1, 0, 1]
    manifest.save(tmp_path / "manifest.parquet")
    assert np.array_equal(manifest.column("weight"), ["2", "0", "1e-3", "of no account"])


WAY_OUT = "give every training image a number of 0 or more, or use --sampling epoch or balanced"


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (None, "no column 'weight', which --sampling weighted draws by. Add it to a list file"),
        (["", "", "", ""], "no column 'weight'"),
        (["1", "", "1", "1"], f"row of 1.png: weight is empty; {WAY_OUT}"),
        (["1", "1", "70 kg", "1"], f"row of 2.png: weight is '70 kg'; {WAY_OUT}"),
        (["-0.5", "1", "-2", "1"], rf"row of 0.png: weight is '-0.5' \(2 such rows\); {WAY_OUT}"),
        (["1", "nan", "1", "1"], "row of 1.png: weight is 'nan'; "),
        (["1", "inf", "1", "1"], "row of 1.png: weight is 'inf'; "),
        (["1e308", "1e308", "1e308", "1"], f"the weights of the training images add up to inf; {WAY_OUT}"),
        (["0", "0", "0", "1"], f"the weights of the training images add up to 0; {WAY_OUT}"),
    ],
)
def test_weights_that_cannot_be_drawn_by_are_named(tmp_path: Path, weights, message: str) -> None:
    manifest = listed(tmp_path, weights)
    with pytest.raises(DataError, match=message) as raised:
        sampling.draws(manifest, manifest.rows("train"), sampling="weighted")
    assert str(raised.value).startswith(f"{tmp_path}, list file list.csv")
