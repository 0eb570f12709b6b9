"""What a report says of captions: best and worst images, attention over the words, scores with intervals, the blind test.
It is recomputed from the run folder, by the functions that training used. No torch; NumPy when a report is written.

`predictions.parquet`, one row an image: `sample` int64, the manifest's row; `path`, `split` string; `caption` string, as
generated; `references` list<string>; `log_probability` float32, summed over the caption's words; and, of shapes only,
`true_and_complete` bool: by its grammar the caption states only true facts and all that are required. More may be there.

`attention.npz`, where there is one, has plain arrays only: `sample` int64 [A], some of those images; `words` str [A, L],
the generated words, empty after the last; `weight` float [A, L, h, w], where each word looked on the encoder's grid, over
the square that the network saw: `share` float, that square's side over the image's shorter side (1 where it is absent).
"""

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fanlight.data.vocabulary import words_of
from fanlight.study import pages
from fanlight.study.runs import headline_split

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

SHOWN = 8  # images of the best, and of the worst
LOOKED = 4  # images with attention
WORDS_LOOKED = 16  # of a caption
TILE_PX = 96
DIM = 0.25  # brightness where a word looked least
NAMES = {
    "bleu1": "BLEU-1", "bleu2": "BLEU-2", "bleu3": "BLEU-3", "bleu4": "BLEU-4", "rouge_l": "ROUGE-L", "cider": "CIDEr",
    "cider_plain": "CIDEr, plain form",
}  # fmt: skip
COLUMNS = ("sample", "path", "split", "caption", "references")


def section(predictions: "pa.Table | None", *, folder: Path, root: Path, missing: dict[str, str]) -> dict[str, Any]:
    """What captions.html shows; empty where the run has written no captions. `root` is where the paths start from; what
    cannot be read is named in `missing`."""
    if predictions is None or any(name not in predictions.column_names for name in COLUMNS):
        return {}
    from fanlight.tasks import caption_scores

    splits = sorted(set(predictions["split"].cast("string").to_pylist()))
    scores = {split: caption_scores.of_table(predictions, split=split) for split in splits}
    scores = {split: found for split, found in scores.items() if found["count"]}
    split = headline_split(scores)
    if split is None:
        return {}
    per_image = {name: found.pop("per_image") for name, found in scores.items()}
    rows = _rows(predictions, split, per_image[split])
    ranked = sorted(rows, key=lambda row: (-row["score"], row["sample"]))
    best = ranked[:SHOWN]
    worst = ranked[max(SHOWN, len(ranked) - SHOWN) :][::-1]  # no image is both
    return {
        "split": split,
        "scores": scores,
        "names": NAMES,
        "ranked_by": "CIDEr" if len(rows) > 1 else "ROUGE-L",
        "best": [_shown(row, root) for row in best],
        "worst": [_shown(row, root) for row in worst],
        "looked": _looked(folder / "attention.npz", {row["sample"]: row for row in rows}, root, missing),
        "said": said(scores[split]),
    }


def said(found: dict[str, Any]) -> list[str]:
    """What a reader should know first, as sentences."""
    split, words = found["split"], []
    if found["cider"] is not None:
        low, high = found["intervals"]["cider"]
        words.append(
            f"CIDEr of {split} is {found['cider']:.3f} ({low:.3f} … {high:.3f}, n = {found['count']}), on the scale whose "
            "highest is 10."
        )
        words.append(blind_words(found))
    if found["true_and_complete"] is not None:
        low, high = found["intervals"]["true_and_complete"]
        words.append(
            f"{pages.share(found['true_and_complete'])} of the captions ({pages.share(low)} … {pages.share(high)}) state "
            "only what is true, and all that is required."
        )
    if found["repeated"] and found["most_common"]["count"] > 1:
        most = found["most_common"]
        words.append(
            f"{pages.share(found['repeated'])} of the images share their caption with another; “{most['caption']}” was "
            f"said of {most['count']}."
        )
    if found["empty"]:
        words.append(f"Captions without a word: {found['empty']}.")
    if found["without_references"]:
        words.append(f"Images without a reference, left out of all scores: {found['without_references']}.")
    return [*words, *map(pages.sentence, found["notes"])]


def blind_words(found: dict[str, Any]) -> str:
    """What the gap of the blind test means."""
    gap, blind = found["blind"]["gaps"]["cider"], found["blind"]["scores"]["cider"]
    low, high = gap["interval"]
    numbers = (
        f"With every caption at another image CIDEr is {blind:.3f}: a gap of {gap['gap']:.3f} ({low:.3f} … {high:.3f})"
    )
    if low > 0:
        return f"{numbers}. The network describes what it sees."
    if high < 0:
        return f"{numbers}. Captions suit other images better than their own: look for images and captions out of step."
    return f"{numbers}, which may be none: nothing shows that the network looks at the image."


def _rows(predictions: "pa.Table", split: str, per_image: dict[str, "np.ndarray"]) -> list[dict[str, Any]]:
    """Images of a split that can be scored, each with its own `score`."""
    import pyarrow as pa
    import pyarrow.compute as pc

    table = predictions.filter(pc.equal(predictions["split"].cast(pa.string()), split))
    extra = [name for name in ("log_probability", "true_and_complete") if name in table.column_names]
    rows = [row for row in table.select([*COLUMNS, *extra]).to_pylist() if row["references"]]
    score = per_image["cider" if len(rows) > 1 else "rouge_l"]
    return [row | {"score": float(value)} for row, value in zip(rows, score)]


def _shown(row: dict[str, Any], root: Path) -> dict[str, Any]:
    """A row with its picture, or why there is none; `probability` is per word, the geometric mean."""
    logarithm = row.get("log_probability")
    words = len(words_of(row["caption"] or "")) + 1  # the end is a word too
    sure = math.exp(logarithm / words) if logarithm is not None and math.isfinite(logarithm) else None
    shown = dict.fromkeys(("true_and_complete",)) | row | {"probability": sure}
    return shown | dict(zip(("picture", "problem"), pages.thumbnail(root / row["path"])))


def _looked(path: Path, rows: dict[int, dict[str, Any]], root: Path, missing: dict[str, str]) -> list[dict[str, Any]]:
    """Images with a tile per word, bright where the word looked; the best and the worst of those in the file first."""
    import numpy as np

    if not path.exists():
        return []
    try:
        with open(path, "rb") as file, np.load(file, allow_pickle=False) as kept:  # of a torn one it closes nothing
            sample_A, words_AL, weight_ALhw = kept["sample"], kept["words"], kept["weight"]
            share = float(kept["share"]) if "share" in kept else 1.0
        if weight_ALhw.ndim != 4 or weight_ALhw.shape[:2] != words_AL.shape or len(sample_A) != len(words_AL):
            raise ValueError(f"shapes {sample_A.shape}, {words_AL.shape}, {weight_ALhw.shape} do not belong together")
        if not 0 < share <= 1 or 0 in weight_ALhw.shape[2:]:
            raise ValueError(f"a square of share {share:g} and a grid of {weight_ALhw.shape[2:]} show nothing")
        weight_ALhw = weight_ALhw.astype(np.float64)
    except Exception as error:  # a zip file that is torn or not one fails in many ways; none should cost the report
        missing[path.name] = (str(error).splitlines() or [type(error).__name__])[0]
        return []
    there = [at for at in range(len(sample_A)) if int(sample_A[at]) in rows]
    there.sort(key=lambda at: -rows[int(sample_A[at])]["score"])
    half = LOOKED // 2
    picked = there if len(there) <= LOOKED else there[:half] + there[-half:]
    found = []
    for at in picked:
        row = rows[int(sample_A[at])]
        square, problem = _square(root / row["path"], share)
        words = [str(word) for word in words_AL[at] if word][:WORDS_LOOKED]
        tiles = [
            {"word": word, "picture": None if square is None else pages.jpeg(lit(square, weight_ALhw[at, place]))}
            for place, word in enumerate(words)
        ]
        found.append({"path": row["path"], "score": row["score"], "problem": problem, "tiles": tiles})
    return found


def _square(path: Path, share: float) -> tuple["np.ndarray | None", str]:
    """uint8 [TILE_PX, TILE_PX, 3], the middle square of an image whose side is `share` of its shorter one, or why none."""
    import cv2

    from fanlight.data.canvas import to_canvas
    from fanlight.data.manifest import read_file
    from fanlight.errors import FanlightError

    try:
        pixels_HWC = to_canvas(read_file(path), canvas_px=math.ceil(TILE_PX / share))
    except OSError:
        return None, "file not found"
    except (FanlightError, ValueError) as error:
        return None, f"cannot be decoded: {error}"
    height, width = pixels_HWC.shape[:2]
    side = max(1, round(min(height, width) * share))
    top, left = (height - side) // 2, (width - side) // 2
    return cv2.resize(pixels_HWC[top : top + side, left : left + side], (TILE_PX, TILE_PX)), ""


def lit(square_PP3: "np.ndarray", weight_hw: "np.ndarray") -> "np.ndarray":
    """The square as it is where the weight is highest, dim where it is lowest; even weights leave it all bright."""
    import cv2
    import numpy as np

    weight_hw = np.nan_to_num(weight_hw, nan=0.0, posinf=0.0, neginf=0.0)
    spread = float(np.ptp(weight_hw))
    scaled_hw = (weight_hw - weight_hw.min()) / spread if spread > 0 else np.ones_like(weight_hw)
    size = (square_PP3.shape[1], square_PP3.shape[0])
    light = np.clip(cv2.resize(scaled_hw, size, interpolation=cv2.INTER_LINEAR), 0, 1)[..., None]
    return (square_PP3 * (DIM + (1 - DIM) * light)).round().astype(np.uint8)
