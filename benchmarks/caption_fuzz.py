"""Lines drawn at random: the caption tokenizer against its Java model. Answers: how often do they differ, and where?

    python benchmarks/caption_fuzz.py --jar stanford-corenlp-3.4.1.jar --captions captions.txt --lines 60000 --seed 1

Java 8 or later; the jar is in the wheel of pycocoevalcap. `--captions` are files of one caption a line, asked as they are
and as a source of words. Exit 1 if more than one line in 10,000 differs, or any caption.
"""

import argparse
import os
import random
import subprocess
import sys
import tempfile
from pathlib import Path

from caption_golden import HARD, LETTERS, MARKS
from fanlight.tasks import caption_lists
from fanlight.tasks.caption_words import PUNCTUATION, USUAL, tokens

ASCII = "".join(map(chr, range(32, 127)))
MIXED = "aaAAbs1122 ..,,''’--__//&&@@##$$()<>:;=!?\"`+*^~%|\\é½£\xad\xa0日²ˆ😀…—“”‘"
FIGURES = "0123456789.,:/-+$%#'°() "
KNOWN = (
    f"{caption_lists.TITLES} {caption_lists.ENDINGS} {caption_lists.CAPITALIZED} {caption_lists.BEFORE_NUMBERS}".split()
)
ALLOWED = 1e-4
SHOWN = 40


def drawn(count: int, *, seed: int, words: list[str]) -> list[str]:
    """Lines of hard cases, abbreviations, numbers, letters and words, one to six of them; a third of mere characters."""
    rng = random.Random(seed)

    def letters(alphabet: str, least: int, most: int) -> str:
        return "".join(rng.choice(alphabet) for _ in range(rng.randint(least, most)))

    def piece() -> str:
        kind = rng.random()
        if kind < 0.5:
            return rng.choice(HARD) + (rng.choice(MARKS) + rng.choice(["", "", rng.choice(HARD)]) if kind < 0.2 else "")
        if kind < 0.7:
            return letters(LETTERS if kind < 0.6 else ASCII, 1, 7)
        if kind < 0.78:
            spell = rng.choice([str.lower, str.title, str.upper])
            return spell(rng.choice(KNOWN)) + rng.choice([".", "", ".,", ".)"])
        return letters(FIGURES, 2, 9) if kind < 0.86 else rng.choice(words)

    def line() -> str:
        if rng.random() < 1 / 3:
            return letters(MIXED, 3, 9)
        return " ".join(piece() for _ in range(rng.randint(1, 6)))

    return [line().strip() for _ in range(count)]


def asked(lines: list[str], *, jar: Path) -> list[list[str]]:
    """What the tool says of each, punctuation dropped. Each stands before a line that begins as captions do."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "lines.txt"
        path.write_text("".join(f"{line}\n{USUAL}\n" for line in lines), encoding="utf-8", newline="")
        command = [
            "java",
            "-cp",
            str(jar),
            "edu.stanford.nlp.process.PTBTokenizer",
            "-preserveLines",
            "-lowerCase",
            str(path),
        ]
        done = subprocess.run(command, capture_output=True, check=True, env={**os.environ, "LC_ALL": "C.UTF-8"})
    found = done.stdout.decode("utf-8").split("\n")[: 2 * len(lines)]
    if any(line.split() != USUAL.lower().split() for line in found[1::2]):
        raise ValueError("a line was broken in two: the lines hold a character that ends lines")
    return [[token for token in line.split(" ") if token and token not in PUNCTUATION] for line in found[::2]]


def differing(lines: list[str], *, jar: Path) -> list[str]:
    """Lines that are told otherwise here; the first SHOWN are printed."""
    found = []
    for line, want in zip(lines, asked(lines, jar=jar), strict=True):
        if (got := tokens(line)) != want:
            found.append(line)
            if len(found) <= SHOWN:
                print(f"{line!r}: {' '.join(got)!r}, the tool {' '.join(want)!r}")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jar", type=Path, required=True)
    parser.add_argument("--captions", type=Path, action="append", default=[])
    parser.add_argument("--lines", type=int, default=60_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    captions = [line for path in options.captions for line in path.read_text(encoding="utf-8").split("\n") if line]
    wrong = len(differing(captions, jar=options.jar)) if captions else 0
    words = [word for line in captions for word in line.split()] or HARD
    lines = drawn(options.lines, seed=options.seed, words=words)
    other = len(differing(lines, jar=options.jar))
    print(f"captions: {wrong} of {len(captions)} differ; drawn lines: {other} of {len(lines)}")
    return 1 if wrong or other > ALLOWED * len(lines) else 0


if __name__ == "__main__":
    sys.exit(main())
