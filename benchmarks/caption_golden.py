"""Makes tests/tasks/golden/caption_*.json: what the published caption scorer and its Java tokenizer say.

Run once, in an environment of its own with `pip install pycocoevalcap` and Java 8 or later, no Fanlight needed:

    python benchmarks/caption_golden.py --coco COCO_MINI --example captions_val2014_fakecap_results.json \
        --plain cider_scorer.py tests/tasks/golden

`--coco` is a folder with annotations/captions_{train,val}2017.json, `--example` the example results of
github.com/tylin/coco-caption, `--plain` the scorer of plain CIDEr of github.com/vrama91/cider (Python 2, made 3 here).
"""

import argparse
import contextlib
import io
import json
import random
import types
from collections import defaultdict
from pathlib import Path

LINES = 1000
SEED = 8
PUBLISHED = 5  # references drawn for each published caption
TEXT = """can't won't don't isn't couldn't've it's It’s he'll they're I'd we've y'all cannot gonna wanna 'twas 'tis o'clock
rock 'n' roll o'neil d'artagnan man's dogs' 'single' "quoted" ``tick'' “curly” ‘curly’ U.S. U.K. U.S.A. e.g. i.e. etc. p.m.
Mr. Mrs. St. Ave. Mt. Inc. Ph.D. B. plan A. 3.5 1,000 10:30 1/2 1 1/2 3-4 50% $5.00 US$ #1 #tag @user No. 5 fig. 3 '98 '90s
1990s 555-1212 (415) 555-1212 12/25/2010 -5 +5 black-and-white t-shirt co-ed half-eaten -dash- -- em—dash en–dash x--y ---
----- ( ) (parens) [brackets] {braces} <b>bold</b> << >> &amp; AT&T at&t R&B &lt; &nbsp; ... . . . .... ?! !! ?? ! ? . , ,, ;;
:: ;) :) :-) :( :D =) <3 ^_^ http://www.example.com/path?x=1 www.example.com example.com foo@bar.com img.jpg 2.jpg c++ f#
café naïve über señor São 日本語 русский العربية हिन्दी ไทย 한국어 ½ ¼ 5€ £5 ¢ 20°C © ™ • … 😀 a😀b ❤️ ☺ → a★b x² H₂O ±5 a/b w/
his/her 24/7 7-Eleven Wi-Fi vs. S&P-500 J.R.R. dog.cat dog,cat dog/cat dog_cat word.) word." word... St. jr. c'mon ol' li'l
5'6" 5ft. 2x4 100th iPhone5 Jan. Jan.5 Sat. Mass. mass. so\xadft 1\u00a01/2 x\u2003y 12:30pm .5 ,5 :30 1. a) x. y, U.S., dog.,
&eacute;t&eacute; &#39; &mdash; it&apos;s & a man woman dog is on the street with red hat in of and two"""
HARD = TEXT.split()
MARKS = ["", "", ",", ".", "!", "?", "'s", "’s", "-", "n't", ")", '"', ";"]
LETTERS = "abcxyzAUSnto'’‘`\"“”.,;:!?-_()[]{}<>&#@$%*+/=\\|~^0123459 é½₂ñ\xad日ー😀"


def drawn() -> list[str]:
    """Lines of words with hard cases, some joined, some of letters at random."""
    rng = random.Random(SEED)

    def piece() -> str:
        kind = rng.random()
        if kind < 0.6:
            return rng.choice(HARD)
        if kind < 0.85:
            return rng.choice(HARD) + rng.choice(MARKS) + rng.choice(["", "", rng.choice(HARD)])
        return "".join(rng.choice(LETTERS) for _ in range(rng.randint(1, 6)))

    return [" ".join(piece() for _ in range(rng.randint(1, 6))) for _ in range(LINES)]


def tokenized(groups: list[list[str]]) -> dict[int, list[str]]:
    from pycocoevalcap.tokenizer.ptbtokenizer import PTBTokenizer

    return PTBTokenizer().tokenize({at: [{"caption": text} for text in texts] for at, texts in enumerate(groups)})


def tokens(lines: list[str]) -> list[str]:
    """Each line's tokens, with spaces between. Every line stands before one that begins with "A": that matters to a
    period after a single letter."""
    return [found[0] for _, found in sorted(tokenized([[line, "A line"] for line in lines]).items())]


def scores(captions: list[str], references: list[list[str]], plain: types.ModuleType) -> tuple[dict, dict]:
    """Of the set, and of each image."""
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    there, said = tokenized(references), tokenized([[caption] for caption in captions])
    with contextlib.redirect_stdout(io.StringIO()):
        (*bleu,), of_images = Bleu(4).compute_score(there, said, verbose=0)
    found = {f"bleu{length + 1}": (score, of_images[length]) for length, score in enumerate(bleu)}
    found["rouge_l"] = Rouge().compute_score(there, said)
    found["cider"] = Cider().compute_score(there, said)
    scorer = plain.CiderScorer(n=4, sigma=6.0)
    for at in there:
        scorer += (said[at][0], there[at])
    found["cider_plain"] = scorer.compute_score("corpus")
    whole = {name: round(float(score), 9) for name, (score, _) in found.items()}
    return whole, {name: [round(float(each), 6) for each in some] for name, (_, some) in found.items()}


def coco(folder: Path) -> list[list[str]]:
    """Captions of each image."""
    found: dict[int, list[str]] = defaultdict(list)
    for split in ("train", "val"):
        document = json.loads((folder / "annotations" / f"captions_{split}2017.json").read_text())
        for row in document["annotations"]:
            found[row["image_id"]].append(row["caption"])
    return list(found.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--coco", type=Path, required=True)
    parser.add_argument("--example", type=Path, required=True)
    parser.add_argument("--plain", type=Path, required=True)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    plain = types.ModuleType("plain")
    text = asked.plain.read_text().replace("iteritems", "items").replace("xrange", "range")
    exec(compile(text, str(asked.plain), "exec"), plain.__dict__)
    made = "benchmarks/caption_golden.py with pycocoevalcap 1.2, its stanford-corenlp-3.4.1.jar and OpenJDK 17"

    lines = drawn()
    others = [
        [lines[(at * 7 + 1) % LINES], " ".join(reversed(lines[at].split())), lines[at - 1]] for at in range(LINES)
    ]
    whole, _ = scores(lines, others, plain)
    write(asked.out / "caption_tokens.json", {
        "made_by": made,
        "what": f"{LINES} drawn lines, no one's captions, and their tokens; `scores` are of line i against line "
        "(7i + 1) mod 1000, line i with its words in reverse, and line i - 1",
        "lines": [list(pair) for pair in zip(lines, tokens(lines))],
        "scores": whole,
    })  # fmt: skip

    images, turns = coco(asked.coco), []
    for turn in range(min(map(len, images))):
        whole, of_images = scores(
            [each[turn] for each in images], [each[:turn] + each[turn + 1 :] for each in images], plain
        )
        turns.append({"turn": turn, "scores": whole, "per_image": of_images if turn == 0 else None})
    write(asked.out / "caption_coco.json", {
        "made_by": made,
        "what": "captions of 60 images of COCO 2017 (cocodataset.org, CC BY 4.0), and the scores of caption `turn` of "
        "each image against its others",
        "captions": images, "tokens": [tokens(each) for each in images], "turns": turns,
    })  # fmt: skip

    example = [row["caption"] for row in json.loads(asked.example.read_text())]
    rng = random.Random(SEED)
    picked = [[rng.randrange(len(example)) for _ in range(PUBLISHED)] for _ in example]
    whole, of_images = scores(example, [[example[each] for each in some] for some in picked], plain)
    write(asked.out / "caption_example.json", {
        "made_by": made,
        "what": "the captions of results/captions_val2014_fakecap_results.json of github.com/tylin/coco-caption (BSD), "
        "COCO's example of a result file. Its references are not here: `references` are numbers of other captions of the "
        "list, drawn at random",
        "captions": example, "references": picked, "tokens": tokens(example),
        "scores": whole, "per_image": {"cider": of_images["cider"]},
    })  # fmt: skip


def write(path: Path, document: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, ensure_ascii=False, separators=(",", ":")) + "\n", encoding="utf-8")
    print(path, path.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
