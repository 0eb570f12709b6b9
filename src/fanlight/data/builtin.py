"""Data sets that come with the installation, so that the first run needs no download."""

import os
import shutil
import tempfile
from pathlib import Path

VERSIONS = {"digits": 1, "shapes": 3}
NAMES = tuple(VERSIONS)
DRAWN = "built-in shapes"  # the source of a manifest of scenes, each drawn by lots of its own


def write(name: str, *, cache: Path) -> Path:
    """The folder of a built-in data set below `cache`, of class folders (`digits`) or of images with captions (`shapes`); written
    on the first call."""
    if name not in NAMES:
        raise ValueError(f"no built-in data set {name!r}; there are: {', '.join(NAMES)}")
    folder = cache / "builtin" / folder_name(name)
    if folder.is_dir():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    part = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=folder.parent))
    try:
        if name == "digits":
            _write_digits(part)
        else:
            _write_shapes(part)
        part.chmod(0o755)
        os.rename(part, folder)
    except OSError:
        if not folder.is_dir():  # otherwise another process was first, with the same images
            raise
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return folder


def folder_name(name: str) -> str:
    """Of the version that is written here; manifests of others name others."""
    return f"{name}-v{VERSIONS[name]}"


def _write_digits(folder: Path) -> None:
    """scikit-learn's 1,797 handwritten digits, 8×8; their values 0 … 16 become 0 … 255."""
    import numpy as np
    from PIL import Image
    from sklearn.datasets import load_digits

    digits = load_digits()
    for label in range(10):
        (folder / str(label)).mkdir()
    for number, (image_HW, label) in enumerate(zip(digits.images, digits.target, strict=True)):
        Image.fromarray(np.rint(image_HW * (255 / 16)).astype(np.uint8)).save(folder / str(label) / f"{number:04d}.png")


def _write_shapes(folder: Path) -> None:
    """13,000 drawn scenes, with five captions each that can be judged."""
    from fanlight.console import Progress
    from fanlight.data.shapes import write as shapes
    from fanlight.machine import cores_usable

    with Progress("Drawing shapes", total=sum(shapes.COUNTS.values()), unit="images") as progress:
        shapes.write(folder, done=progress.advance, cores=cores_usable())
