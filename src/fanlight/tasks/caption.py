"""Captioning: several sentences per image. B rows, k captions of each in a batch (C at most), L numbers of a caption, START
and END included, V words.

What is learned is each next word after the true ones before it; only words and END count, PAD never does. What a trained
network writes by itself is made once, when training is over (`write`), and is what the scores are of.
"""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
import torch.nn.functional as F
from safetensors import safe_open

from fanlight.config import Config
from fanlight.data import builtin, captions, spoken, vocabulary
from fanlight.data.loader import Chooser
from fanlight.data.manifest import Manifest
from fanlight.data.shapes import judge
from fanlight.data.shapes.scene import Scene
from fanlight.data.vocabulary import Vocabulary
from fanlight.errors import ConfigError, shown
from fanlight.models import captioner, zoo
from fanlight.models.captioner import Captioner
from fanlight.models.detect import FIRST, looked_for
from fanlight.tasks import caption_report
from fanlight.types import END, PAD, START

BEAMS_MOST = 100
AT_ONCE = 320  # sentences that are open at once, so that wide beams take time and not memory
EVALUATED_RTOL = 1e-4  # of an image's summed loss: what rounding of other summation orders may do to it, in fp32
TIES_MOST = 0.01  # share of words whose two best guesses are so close that rounding chooses


@dataclass(frozen=True)
class Caption:
    """The task of a manifest with sentences."""

    vocabulary: Vocabulary
    longest: int  # words of a caption, START and END not counted
    per_image: int  # captions of an image that an epoch trains on
    beams: int
    label_smoothing: float = 0.0  # Szegedy et al. 2015, in training only
    window: int = 1  # batches of images sorted by the lengths of their captions together

    name = "caption"
    classes: tuple[str, ...] = ()
    headline = "accuracy"  # share of words that are right, each after the true words before it
    logged = ("loss", "accuracy")
    kept = (
        "count", "words", "loss", "accuracy", "bleu1", "bleu2", "bleu3", "bleu4", "rouge_l", "cider", "cider_d",
        "cider_plain", "intervals", "blind", "vocabulary_used", "vocabulary_references", "mean_length",
        "mean_length_references", "distinct", "repeated", "most_common", "true_and_complete", "true_and_complete_interval",
        "only_true", "only_true_interval", "true_elsewhere", "notes",
    )  # fmt: skip

    @classmethod
    def of(cls, config: Config, manifest: Manifest) -> Caption:
        """Of a resolved config: the vocabulary is that of the training captions."""
        c = config.caption
        assert c.min_count is not None and c.longest is not None and c.per_image is not None, "resolved before"
        assert c.window is not None, "resolved, or set by train/folder.py where a run is older than the key"
        rows = manifest.rows("train")
        rows = rows if len(rows) else np.flatnonzero(manifest.captioned)  # not split yet
        words = spoken.of(manifest).vocabulary(rows, c.min_count)
        return cls(words, c.longest, c.per_image, c.beams, config.optim.label_smoothing, c.window)

    @classmethod
    def restored(cls, about: Mapping[str, Any], *, beams: int | None) -> Caption:
        """Of a run's weights."""
        if beams is not None and not 1 <= beams <= BEAMS_MOST:
            raise ConfigError(f"--beams is {beams}; it must be from 1 to {BEAMS_MOST}")
        words = Vocabulary(tuple(map(str, about["words"])))
        longest, own = int(about["longest"]), int(about["beams"])
        if longest < 1 or not 1 <= own <= BEAMS_MOST:
            raise ConfigError(f"sentences of {longest} words, written by {own} beams, which cannot be")
        return cls(words, longest, 1, beams or own)

    @property
    def notes(self) -> list[str]:
        return [
            f"vocabulary of {len(self.vocabulary):,} words, sentences of at most {self.longest} words; accuracy is the share "
            "of words that are right, each after the true words before it"
        ]

    @property
    def _written_most(self) -> int:
        """What decode.generate counts, START included: `longest` words, after which a sentence is cut without an END."""
        return self.longest + 1

    @property
    def chooser(self) -> Chooser:
        return self

    def model(
        self, name: str, *, image_px: int, seed: int, pretrained: bool = False, weights: str | None = None
    ) -> zoo.Created:
        if not captioner.is_name(name):
            raise ConfigError(
                f"model.name is {name}, which names classes, and the data has captions; use --model {name}+lstm or "
                f"{name}+transformer"
            )
        if weights is not None:
            _check_words(self.vocabulary, Path(weights))
        return zoo.create(
            name, classes=len(self.vocabulary), image_px=image_px, seed=seed, pretrained=pretrained, weights=weights,
            longest=self.longest + 2,
        )  # fmt: skip

    def targets(self, manifest: Manifest, rows: np.ndarray) -> np.ndarray:
        """int16 [N, C, L], START … END and PAD, of each manifest row. DataError that names one without a caption."""
        said = spoken.of(manifest)
        captions.captions_of(manifest, rows[said.counts(rows) == 0])  # which refuses them
        return said.encoded(rows, self.vocabulary, self.longest)

    def of_epoch(self, targets_BCL: np.ndarray, *, keys: np.ndarray, seed: int, epoch: int) -> np.ndarray:
        """[B, k, L'] of [B, C, L]: the captions whose turn it is; L' is what the longest of them takes."""
        k = min(self.per_image, targets_BCL.shape[1])
        places = captions.chosen(keys, captions.counts(targets_BCL), k=k, seed=seed, epoch=epoch)
        return captions.words(targets_BCL, places)

    def evaluated(self, targets_BCL: np.ndarray) -> np.ndarray:
        """[B, C, L']: all captions; L' is what the longest of them takes."""
        return captions.narrow(targets_BCL)

    def lengths(self, targets_BkL: np.ndarray) -> np.ndarray:
        """int64 [B], of the longest caption of each."""
        return captions.lengths(targets_BkL).max(1, initial=0)

    def weights(self, targets: np.ndarray) -> np.ndarray:
        """float64 [N], the words of each row that count: all but START."""
        return np.maximum(captions.lengths(targets) - 1, 0).sum(1).astype(np.float64)

    def loss_sum(
        self, outputs: torch.Tensor, targets: torch.Tensor, *, share: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Cross-entropy of what Decoder.forward says, summed over words, in at least fp32; and where words are detected, the
        binary one of which stand in a caption, summed over those that are looked for and times the caption's words: so
        that both are means over the same words in the end."""
        assert share is None, "mixed images, of which no sentence is true"
        outputs = _exact(outputs)
        loss = F.cross_entropy(
            outputs.flatten(0, 2), _wanted(outputs, targets).flatten(), ignore_index=PAD, reduction="sum",
            label_smoothing=self.label_smoothing,
        )  # fmt: skip
        return loss + _undetected(outputs, targets) if _detects(outputs, targets) else loss

    def hits(self, outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        """How many words are right."""
        wanted = _wanted(outputs, targets)
        return ((outputs.argmax(-1) == wanted) & (wanted != PAD)).sum()

    def counted(self, targets: torch.Tensor) -> torch.Tensor:
        """How many words could be."""
        return (targets[..., 1:] != PAD).sum()

    def example(self, rows: int) -> np.ndarray:
        """int64 [rows, k, L]: targets of made-up images, as wide as any."""
        found = np.full((rows, self.per_image, self.longest + 2), len(self.vocabulary) - 1, np.int64)
        found[..., 0] = START
        found[..., -1] = END
        return found

    def rows(self, outputs: torch.Tensor, targets: torch.Tensor) -> np.ndarray:
        """float32 [B, 3]: of each image the summed loss of its words, how many are right, and of how many."""
        wanted = _wanted(outputs, targets)
        losses = F.cross_entropy(
            _exact(outputs).flatten(0, 2), wanted.flatten(), ignore_index=PAD, reduction="none"
        ).view_as(wanted)
        right = (outputs.argmax(-1) == wanted) & (wanted != PAD)
        sums = [losses.double().sum((1, 2)), right.sum((1, 2)), (wanted != PAD).sum((1, 2))]
        return torch.stack([each.float() for each in sums], 1).cpu().numpy()

    def agree(self, rows: np.ndarray, expected: np.ndarray) -> bool:
        """Whether two evaluations say the same but for rounding: the same loss of every image, and the same words right, where
        no tie decides."""
        if rows.shape != expected.shape or not (np.isfinite(rows).all() and np.isfinite(expected).all()):
            return False
        close = np.allclose(rows[:, 0], expected[:, 0], rtol=EVALUATED_RTOL, atol=EVALUATED_RTOL)
        ties = np.abs(rows[:, 1] - expected[:, 1]).sum()
        return bool(close and (rows[:, 2] == expected[:, 2]).all() and ties <= TIES_MOST * expected[:, 2].sum())

    def table(self, manifest: Manifest, rows: np.ndarray, outputs_N3: np.ndarray) -> pa.Table:
        """One row per sample, in the order of `rows`; `written` adds what the network says."""
        loss_N, right_N, words_N = outputs_N3.astype(np.float64).T
        columns = {
            "sample": rows, "path": manifest.column("path")[rows], "split": manifest.column("split")[rows],
            "references": pa.array(captions.captions_of(manifest, rows), pa.list_(pa.string())),
            "loss": (loss_N / np.maximum(words_N, 1)).astype(np.float32), "right": right_N.astype(np.int32),
            "words": words_N.astype(np.int32), "leaked": manifest.leaked[rows],
        }  # fmt: skip
        return pa.table(columns)

    @torch.no_grad()
    def write(self, model: torch.nn.Module, images: torch.Tensor) -> torch.Tensor:
        """float32 [B, L]: the log-probability of the sentence that the network writes for each image, and its words."""
        from fanlight.models import decode

        written = []
        for some in images.split(max(1, AT_ONCE // self.beams)):
            found = decode.generate(typing.cast(Captioner, model), some, beams=self.beams, longest=self._written_most)
            written.append(torch.cat([found.log_probability[:, None].float(), found.ids.float()], 1))
        return torch.cat(written)

    @torch.no_grad()
    def look(self, model: torch.nn.Module, images: torch.Tensor) -> dict[str, np.ndarray]:
        """`words` str [B, L] and `weight` float32 [B, L, h, w], where each looked on the grid; empty where that is no square."""
        from fanlight.models import decode

        found = decode.generate(typing.cast(Captioner, model), images, beams=self.beams, longest=self._written_most)
        side = math.isqrt(found.attention.shape[2])
        if side * side != found.attention.shape[2]:
            return {}
        silent = (PAD, START, END)
        words = [["" if n in silent else self.vocabulary.words[n] for n in ids] for ids in found.ids.tolist()]
        weight = found.attention.float().cpu().numpy().reshape(*found.attention.shape[:2], side, side)
        return {"words": np.array(words, dtype=np.str_), "weight": weight}

    def said(self, outputs_N: np.ndarray) -> list[str]:
        """The sentences that `write` gave."""
        return [self.vocabulary.decode(ids) for ids in outputs_N[:, 1:].astype(np.int64)]

    def told(self, outputs_N: np.ndarray) -> list[tuple[str, float]]:
        """Sentence and score of what `write` gave: the geometric mean of the probabilities of its words and its END."""
        count_N = (~np.isin(outputs_N[:, 1:], (PAD, START))).sum(1)
        return list(zip(self.said(outputs_N), np.exp(outputs_N[:, 0] / np.maximum(count_N, 1)).tolist()))

    def lacks(self, manifest: Manifest, rows: np.ndarray) -> list[str]:
        """How many words of these rows' captions are unknown, and the most frequent of them."""
        said = spoken.of(manifest)
        unknown = said.unknown(rows, self.vocabulary)
        if not unknown:
            return []
        count, total = sum(unknown.values()), int(said.lengths(rows).sum())
        most = max(sorted(unknown), key=lambda word: unknown[word])
        return [
            f"{count:,} of the {total:,} words of these captions ({count / total:.1%}) are not in the run's vocabulary, most "
            f"often {shown(most)!r}: it cannot write them, and takes them for <unk>"
        ]

    def written(self, manifest: Manifest, table: pa.Table, outputs_N: np.ndarray) -> pa.Table:
        """The table with the sentences that `write` gave for its rows, judged where the scenes are known."""
        said = self.said(outputs_N)
        columns = {
            "caption": pa.array(said, pa.string()),
            "log_probability": pa.array(outputs_N[:, 0].astype(np.float32)),
        }
        scenes = judge.scenes_of(manifest.root) if manifest.source == builtin.DRAWN else None
        if scenes is not None:
            found = judge.judged(scenes, table["path"].to_pylist(), said)
            columns |= {"true_and_complete": pa.array(found.true_and_complete), "only_true": pa.array(found.is_true)}
            columns["true_elsewhere"] = pa.array(_elsewhere(scenes, table, said))
        for name, column in columns.items():
            table = table.append_column(name, column)
        return table

    def score(self, table: pa.Table, *, split: str) -> dict[str, Any]:
        """Every metric of one split, from the table alone; those of sentences where it has some."""
        rows = table.filter(pc.equal(table["split"].cast(pa.string()), split)).combine_chunks()
        return caption_report.score(rows, split=split)

    def temperature(self, table: pa.Table) -> tuple[float, str]:
        return 1.0, "sentences have no class whose probability would be told"

    def facts(self, tables: Mapping[str, pa.Table]) -> dict[str, Any]:
        """What run.json keeps beside the scores."""
        return {"vocabulary": len(self.vocabulary)}

    def about(self) -> dict[str, Any]:
        """What a file of weights says of itself, so that it can be used without its run."""
        return {
            "task": self.name, "classes": [], "words": list(self.vocabulary.words), "longest": self.longest,
            "beams": self.beams,
        }  # fmt: skip

    def keep(self, run: Path) -> None:
        """Beside the config of a new run: the words."""
        self.vocabulary.save(run / vocabulary.FILE)


def _elsewhere(scenes: Mapping[str, Scene], table: pa.Table, said: Sequence[str]) -> np.ndarray:
    """float64 [N]: of what share of the other images of its split each sentence would be right."""
    paths, splits = table["path"].to_pylist(), np.array(table["split"].to_pylist())
    found = np.zeros(len(paths))
    for split in np.unique(splits):
        own = np.flatnonzero(splits == split).tolist()
        found[own] = judge.elsewhere(scenes, [paths[row] for row in own], [said[row] for row in own])
    return found


def _check_words(own: Vocabulary, path: Path) -> None:
    """ConfigError where a run's file of a whole captioner numbers other words. As many would fit, and every number would mean
    another word; files that do not say their words are taken as they are."""
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {})["fanlight"])
        theirs = [str(word) for word in about["words"]] if about["task"] == Caption.name else list(own.words)
    except Exception:  # no such file, a classifier's, another's: what is wrong with it is said where it is read
        return
    if theirs == list(own.words):
        return
    place = next((at for at, pair in enumerate(zip(theirs, own.words)) if pair[0] != pair[1]), None)
    differing = f"their numbers {len(theirs)} and {len(own)}"
    if place is not None:
        differing = f"first {shown(theirs[place])!r} there where {shown(own.words[place])!r} is here"
    raise ConfigError(
        f"model.weights={path} is a captioner of {len(theirs)} words, and these captions have {len(own)}, which differ, "
        f"{differing}; give weights of the same training captions and caption.min_count, or leave --weights out"
    )


def _detects(outputs: torch.Tensor, targets: torch.Tensor) -> bool:
    """Whether START's place has scores of words; else there is no such place."""
    return outputs.shape[2] == targets.shape[2]


def _wanted(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The word that each place of the outputs should say; PAD where it says none."""
    if not _detects(outputs, targets):
        return targets[..., 1:]
    wanted = targets.clone()
    wanted[..., 0] = PAD
    return wanted


def _undetected(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """The detector's loss, summed over captions, each times the number of its words that count."""
    found = looked_for(outputs.shape[3])
    stands_BkN = outputs.new_zeros((*targets.shape[:2], found + 1))  # the last is of all words that are not looked for
    place = targets - FIRST
    stands_BkN.scatter_(2, place.where((place >= 0) & (place < found), found), 1.0)
    scores_BkN = outputs[:, :, 0, FIRST : FIRST + found]
    losses_Bk = F.binary_cross_entropy_with_logits(scores_BkN, stands_BkN[..., :found], reduction="none").sum(2)
    return (losses_Bk * (targets[..., 1:] != PAD).sum(2)).sum()


def _exact(logits: torch.Tensor) -> torch.Tensor:
    return logits.float() if logits.dtype in (torch.bfloat16, torch.float16) else logits
