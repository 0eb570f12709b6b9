"""Can a captioner learn images by heart, and does it do so by looking?

64 images with one caption each (all different) are trained on until they are known; `fanlight predict` then describes them
from their pixels. Share that is reproduced word for word (floor .95), and the same where each image stands under another's
caption (at most .05): a decoder that did not see would do equally well.

    python benchmarks/caption_overfit.py ../shared/data/flickr700 --model resnet18+lstm
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import tempfile
from pathlib import Path

from fanlight.data import vocabulary
from fanlight.data.formats import recognise
from hardware import heading

VAL = 8  # further images: a training measures itself on some


def chosen(data: str, images: int, longest: int) -> list[tuple[str, str]]:
    """(path, caption) of the first images with a caption of at most `longest` words that no other has."""
    found = recognise(data, cache=Path("unused"))
    taken: dict[str, str] = {}
    for path, captions in zip(found.paths, found.captions):
        words = [vocabulary.joined(vocabulary.words_of(text)) for text in json.loads(captions)]
        fitting = [text for text in words if len(text.split()) <= longest and text not in taken]
        if fitting:
            taken[fitting[0]] = path
        if len(taken) == images + VAL:
            return [(str(found.root / path), text) for text, path in taken.items()]
    raise SystemExit(f"{data} has {len(taken)} images with a fitting caption, not {images + VAL}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data")
    parser.add_argument("--model", default="resnet18+lstm")
    parser.add_argument("--image-size", type=int, default=64)
    parser.add_argument("--images", type=int, default=64)
    parser.add_argument("--longest", type=int, default=16, help="words of a caption")
    parser.add_argument("--epochs", type=int, default=80)
    parser.add_argument("--lr", type=float, default=1e-3)
    a = parser.parse_args()
    pairs = chosen(a.data, a.images, a.longest)
    with tempfile.TemporaryDirectory() as parent:
        place = Path(parent)
        with open(place / "list.csv", "w", newline="") as file:
            rows = [(path, text, "train" if number < a.images else "val") for number, (path, text) in enumerate(pairs)]
            csv.writer(file).writerows([("path", "caption", "split"), *rows])
        learn = ["train", str(place / "list.csv"), "--model", a.model, "--image-size", str(a.image_size), "--no-augment",
                 "--batch-size", "16", "--epochs", str(a.epochs), "--lr", str(a.lr), "--no-autotune", "--min-count", "1",
                 "--set", f"caption.longest={a.longest}", "--set", "optim.label_smoothing=0", "--set",
                 f"train.evaluate_every={a.epochs}", "--out", str(place / "run")]  # fmt: skip
        subprocess.run([sys.executable, "-m", "fanlight", *learn], check=True, stdout=subprocess.DEVNULL)
        asked = ["predict", str(place / "run"), *(path for path, _ in pairs[: a.images]), "--json"]
        answer = subprocess.run([sys.executable, "-m", "fanlight", *asked], check=True, capture_output=True, text=True)
    said = {row["path"]: row["caption"] for row in json.loads(answer.stdout)["predictions"]}
    own = [said[path] == text for path, text in pairs[: a.images]]
    others = [said[path] == pairs[(place + 1) % a.images][1] for place, (path, _) in enumerate(pairs[: a.images])]
    print(heading(f"{a.images} images by heart, {a.model} at {a.image_size} px"))
    print(f"Word for word: {sum(own)} of {len(own)} = {sum(own) / len(own):.3f} (floor .95)\n")
    print(
        f"Under another image's caption: {sum(others)} of {len(others)} = {sum(others) / len(others):.3f} (at most .05)"
    )


if __name__ == "__main__":
    main()
