"""How long scoring takes: 5,000 images with 5 references each, on one core, beside pycocoevalcap where it is installed.

Captions are sentences drawn from some 9,000 words with the lengths of COCO's, a tenth with an abbreviation, an apostrophe
or a hyphen in it, so that little is remembered from one to the next. Java's start is in pycocoevalcap's time, METEOR and
SPICE are not. The first round is left out.

    python benchmarks/caption_scores.py --images 5000 --rounds 5
"""

from __future__ import annotations

import argparse
import contextlib
import io
import time
from collections.abc import Callable

import numpy as np
from threadpoolctl import threadpool_limits

from fanlight.study import stats
from fanlight.tasks import caption_scores

WORDS = 9000
HARD = ("man's", "t-shirt", "can't", "black-and-white", "St.", "3.5", "U.S.", "(red)", "2", "it's")
LETTERS = np.array(list("etaoinshrdlucmfwypvbgk"))


def drawn(images: int, *, references: int, seed: int = 0) -> tuple[list[str], list[list[str]]]:
    """Captions and references. Words are as frequent as Zipf has it."""
    rng = np.random.default_rng(seed)
    words = ["".join(rng.choice(LETTERS, rng.integers(2, 10))) for _ in range(WORDS)] + list(HARD)
    chance = 1 / np.arange(1, len(words) + 1)
    chance[WORDS:] = chance[:WORDS].sum() / 100 / len(HARD)

    def sentence() -> str:
        picked = rng.choice(len(words), rng.integers(8, 15), p=chance / chance.sum())
        return " ".join(words[at] for at in picked).capitalize() + "."

    return [sentence() for _ in range(images)], [[sentence() for _ in range(references)] for _ in range(images)]


def published(captions: list[str], references: list[list[str]]) -> dict[str, float]:
    """The same scores by pycocoevalcap. ImportError where it is not installed."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    with contextlib.redirect_stdout(io.StringIO()):
        there = PTBTokenizer().tokenize(
            {at: [{"caption": each} for each in some] for at, some in enumerate(references)}
        )
        said = PTBTokenizer().tokenize({at: [{"caption": each}] for at, each in enumerate(captions)})
        bleu = Bleu(4).compute_score(there, said, verbose=0)[0]
        rouge, cider = Rouge().compute_score(there, said)[0], Cider().compute_score(there, said)[0]
    return {**{f"bleu{at + 1}": value for at, value in enumerate(bleu)}, "rouge_l": rouge, "cider": cider}


def seconds(work: Callable[[], object], *, rounds: int) -> str:
    taken = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        work()
        taken.append(time.perf_counter() - start)
    found = stats.center(taken[1:])
    between = "" if found.interval is None else f" ({found.interval[0]:.2f} … {found.interval[1]:.2f})"
    return f"{found.value:.2f} s{between}, n = {found.n}; first {taken[0]:.2f} s"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--references", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=5)
    asked = parser.parse_args()
    captions, references = drawn(asked.images, references=asked.references)
    print(f"{asked.images} images, {asked.references} references each, one core")
    print("scores               ", seconds(lambda: caption_scores.score(captions, references), rounds=asked.rounds))
    print("with intervals, blind", seconds(lambda: caption_scores.report(captions, references), rounds=asked.rounds))
    try:
        want = published(captions, references)
    except ImportError:
        print("pycocoevalcap is not installed here")
        return
    print("pycocoevalcap        ", seconds(lambda: published(captions, references), rounds=min(asked.rounds, 2)))
    found = caption_scores.score(captions, references)
    print("largest difference   ", max(abs(found[name] - value) for name, value in want.items()))


if __name__ == "__main__":
    with threadpool_limits(1):
        main()
