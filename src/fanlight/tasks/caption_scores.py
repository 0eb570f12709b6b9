"""Scores of captions against references, equal to pycocoevalcap's and without its Java. No torch. N images.

`bleu1` … `bleu4` are of the whole set, `rouge_l` and CIDEr are means over images. CIDEr's scale is 10. `cider` is what
pycocoevalcap prints as CIDEr, and so what papers on COCO report; by its formula that is CIDEr-D, hence `cider_d` is the
same number. `cider_plain` is the form without clipping and length penalty. One image alone has no CIDEr: None, never 0.

The blind test scores the captions again with every one at another image. What a score keeps there, it owes to captions
that suit any image of the set; only the gap was seen in the picture.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fanlight.data.vocabulary import words_of
from fanlight.errors import shown
from fanlight.tasks import caption_bleu, caption_cider, caption_ngrams, resampling
from fanlight.tasks.caption_ngrams import LONGEST
from fanlight.tasks.caption_rouge import rouge_l
from fanlight.tasks.caption_words import of_lines
from fanlight.tasks.classify_scores import wilson

NAMES = (*(f"bleu{length}" for length in range(1, LONGEST + 1)), "rouge_l", "cider", "cider_d", "cider_plain")
MEANS = ("rouge_l", "cider_d", "cider_plain")  # over images; the others are of the set
LONELY = "one image has no CIDEr: every run of words is in all of its set's references, and counts nothing"


@dataclass(frozen=True)
class Judged:
    """Captions beside the references of their images, made ready once, to be scored in any order."""

    captions: tuple[tuple[str, ...], ...]  # tokens
    references: tuple[tuple[tuple[str, ...], ...], ...]  # tokens, at least one reference for each image

    @cached_property
    def image_R(self) -> np.ndarray:
        return np.repeat(np.arange(len(self.references)), [len(each) for each in self.references])

    @cached_property
    def _runs(self) -> tuple[tuple[caption_ngrams.Runs, ...], tuple[caption_ngrams.Runs, ...]]:
        every = [_spaced(each) for each in (*self.captions, *(each for some in self.references for each in some))]
        runs, count = caption_ngrams.counted(every), len(self.captions)
        return tuple(each.of(0, count) for each in runs), tuple(each.of(count, len(every)) for each in runs)

    @cached_property
    def _prepared(self) -> tuple[tuple[caption_bleu.References, ...], tuple[caption_cider.References, ...]]:
        runs = self._runs[1]
        rare = caption_cider.prepared(runs, image_R=self.image_R, images=len(self.captions))
        return caption_bleu.prepared(runs, image_R=self.image_R), rare

    def parts(self, image_N: np.ndarray | None = None) -> np.ndarray:
        """float64 [N, PARTS + 3], by image: what its score is made of, BLEU's parts and MEANS. `image_N` says at which
        image each caption stands; None: its own."""
        count = len(self.captions)
        image_N = np.arange(count) if image_N is None else image_N
        captions, (most, rare) = self._runs[0], self._prepared
        here_N = np.empty(count, np.int64)  # which caption stands at an image
        here_N[image_N] = np.arange(count)
        length_N = caption_ngrams.lengths([_spaced(each) for each in self.captions])[here_N]
        length_R = caption_ngrams.lengths([_spaced(each) for some in self.references for each in some])
        closest_N = caption_bleu.closest(length_N, length_R=length_R, image_R=self.image_R)
        bleu = caption_bleu.parts(captions, most, image_N=image_N, length_N=length_N, closest_N=closest_N)
        rouge = [rouge_l(self.captions[at], there) for at, there in zip(here_N, self.references)]
        seen = caption_cider.cider(
            captions, rare, image_N=image_N, image_R=self.image_R, length_N=length_N, length_R=length_R
        )
        return np.column_stack([bleu, rouge, *(seen[name] for name in MEANS[1:])])


def judged(captions: Sequence[str], references: Sequence[Sequence[str]]) -> Judged:
    """Tokenized once, as lines of two files in this order. ValueError where the numbers differ or an image has no reference."""
    if len(captions) != len(references):
        raise ValueError(f"{len(captions)} captions for the references of {len(references)} images")
    if (bare := next((at for at, some in enumerate(references) if not len(some)), None)) is not None:
        raise ValueError(f"image {bare} has no reference: nothing to score its caption by")
    every = iter(of_lines([each for some in references for each in some]))
    return Judged(
        tuple(map(tuple, of_lines(captions))), tuple(tuple(tuple(next(every)) for _ in some) for some in references)
    )


def score(captions: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, Any]:
    """NAMES of a set of captions, float or None where there is none to be had; and `per_image`: the same names, float64
    [N] each, BLEU of each image alone. ValueError as `judged`."""
    parts = judged(captions, references).parts()
    return {**_plain(_totals(parts.sum(0), len(parts)), len(parts)), "per_image": by_image(parts)}


def by_image(parts_NP: np.ndarray) -> dict[str, np.ndarray]:
    """float64 [N] for each name; CIDEr of one image alone is NaN."""
    found = {name: value.copy() for name, value in _totals(parts_NP, 1).items()}
    if len(parts_NP) < 2:
        found |= {name: np.full(len(parts_NP), np.nan) for name in found if name.startswith("cider")}
    return found


def report(captions: Sequence[str], references: Sequence[Sequence[str]], *, seed: int = 0) -> dict[str, Any]:
    """What is said of a set of captions, as plain containers: NAMES; `intervals` of them, 95 %, by drawing images again,
    with the document frequency of CIDEr as it is; `blind`, the blind test; `notes`; and what `wording` gives."""
    found = judged(captions, references)
    return _report(found, found.parts(), references, seed=seed)


def _report(found: Judged, parts: np.ndarray, references: Sequence[Sequence[str]], *, seed: int) -> dict[str, Any]:
    count = len(parts)
    scores = _plain(_totals(parts.sum(0), count), count)
    drawn = _totals(resampling.sums(parts, seed=seed), count) if count > 1 else {}
    return {
        **scores,
        "intervals": {name: resampling.interval(values) for name, values in drawn.items()},
        "blind": _blind(found, scores, drawn, seed=seed) if count > 1 else None,
        **wording(found),
        "notes": [*([LONELY] if count == 1 else []), *_undivided(found, references)],
    }


def _undivided(found: Judged, references: Sequence[Sequence[str]]) -> list[str]:
    """A note where the published tokenizer finds hardly a word in references that have several: it is right of the published
    scores, and says next to nothing of these captions."""
    texts = [text for some in references for text in some]
    tokens = [each for some in found.references for each in some]
    few = [
        text for text, own in zip(texts, tokens) if not text.isascii() and len(own) * 2 < len(words_of(text))
    ]  # fmt: skip
    if not few:
        return []
    return [
        f"{len(few):,} of the {len(texts):,} references, such as {shown(few[0])!r}, have fewer than half their words in these "
        "scores: their usual tokenizer, made for English, drops emoji and takes a run of Chinese, Japanese or Thai letters for "
        "one word; BLEU, ROUGE-L and CIDEr say little of them, the share of right words does"
    ]


def _blind(found: Judged, scores: dict[str, Any], drawn: dict[str, np.ndarray], *, seed: int) -> dict[str, Any]:
    """The scores with every caption at another image, and by how much each falls; captions and images are drawn again in
    pairs, so an interval above 0 says that the network saw something."""
    count = len(found.captions)
    parts = found.parts(resampling.derangement(count, seed=seed))
    blind = _plain(_totals(parts.sum(0), count), count)
    again = _totals(resampling.sums(parts, seed=seed), count)
    gaps = {name: drawn[name] - again[name] for name in NAMES}
    gap = {name: {"gap": scores[name] - blind[name], "interval": resampling.interval(gaps[name])} for name in NAMES}
    return {"scores": blind, "gaps": gap}


def wording(found: Judged) -> dict[str, Any]:
    """How rich the captions are, in tokens, beside the references: the words used, the mean length, `repeated`, the share
    of images whose caption another image of the set has too, and `most_common`, the caption that most images have."""
    said = Counter(found.captions)
    references = [each for some in found.references for each in some]
    most, times = max(said.items(), key=lambda item: (item[1], item[0])) if said else ((), 0)
    return {
        "vocabulary_used": len({word for each in said for word in each}),
        "vocabulary_references": len({word for each in references for word in each}),
        "mean_length": float(np.mean([len(each) for each in found.captions])) if found.captions else None,
        "mean_length_references": float(np.mean([len(each) for each in references])) if references else None,
        "distinct": len(said),
        "repeated": sum(n for n in said.values() if n > 1) / len(found.captions) if found.captions else None,
        "empty": said[()],
        "most_common": {"caption": " ".join(most), "count": times},
    }


def of_table(table: pa.Table, *, split: str, seed: int = 0) -> dict[str, Any]:
    """`report` of the rows of one split of a predictions table (study/captions.py has its columns), with `count`, the
    images scored; images without a reference are left out, and counted in `without_references`. `per_image` has, of those
    scored in their order, the same names as `score` has there. `true_and_complete` is
    the share of captions of shapes that the grammar found so, with its interval; None for other data."""
    rows = table.filter(pc.equal(table["split"].cast(pa.string()), split))
    captions, references = rows["caption"].to_pylist(), rows["references"].to_pylist()
    scored = [(caption or "", some) for caption, some in zip(captions, references) if some]
    ready = judged([caption for caption, _ in scored], [some for _, some in scored])
    parts = ready.parts()
    found = {**_report(ready, parts, [some for _, some in scored], seed=seed), "per_image": by_image(parts)}
    true = [each for each in _column(rows, "true_and_complete") if each is not None]
    if true:
        found["intervals"]["true_and_complete"] = wilson(sum(true), len(true))
    found["true_and_complete"] = sum(true) / len(true) if true else None
    return {"split": split, "count": len(scored), "without_references": len(captions) - len(scored), **found}


def _column(rows: pa.Table, name: str) -> list[Any]:
    return rows[name].to_pylist() if name in rows.column_names else []


def _totals(sums: np.ndarray, count: int) -> dict[str, np.ndarray]:
    """NAMES [...] of sums [..., PARTS + 3] over `count` images."""
    bleu = caption_bleu.bleu(sums[..., : caption_bleu.PARTS])
    means = sums[..., caption_bleu.PARTS :] / max(count, 1)
    found = {f"bleu{length + 1}": bleu[..., length] for length in range(LONGEST)}
    found |= {name: means[..., at] for at, name in enumerate(MEANS)}
    return {name: found["cider_d" if name == "cider" else name] for name in NAMES}


def _plain(scores: dict[str, np.ndarray], count: int) -> dict[str, float | None]:
    """Numbers for JSON. Nothing was scored without images, and no CIDEr with one."""
    least = {name: 2 if name.startswith("cider") else 1 for name in NAMES}
    return {name: float(value) if count >= least[name] else None for name, value in scores.items()}


def _spaced(words: tuple[str, ...]) -> tuple[str, ...]:
    """BLEU and CIDEr of the published tool split a token with an unbreakable space in it; ROUGE does not."""
    return tuple(" ".join(words).split()) if any("\xa0" in word for word in words) else words
