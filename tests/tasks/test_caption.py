"""The task of captions: what counts, what is chosen, what is refused."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file

from fanlight import tasks
from fanlight.config import Config
from fanlight.data import manifest as manifests
from fanlight.data import scan
from fanlight.data.formats import recognise
from fanlight.data.manifest import Manifest
from fanlight.data.shapes import write
from fanlight.data.vocabulary import SPECIAL, Vocabulary
from fanlight.errors import ConfigError
from fanlight.models import decode
from fanlight.tasks import caption
from fanlight.tasks.caption import Caption
from fanlight.tasks.caption_report import words
from fanlight.tasks.classify import Classify
from fanlight.train import probe
from fanlight.types import END, PAD, START, UNK

SAID = [["A red dog."], ["a dog, and a cat, and a dog!", "Red"], ["cat", "dog cat", "a red cat there"]]
WORDS = Vocabulary.of((text for each in SAID for text in each), 1)
TASK = Caption(WORDS, longest=6, per_image=2, beams=1)


def manifest(said=SAID) -> Manifest:
    columns = {
        field.name: [{"string": "", "bool": True}.get(str(field.type), 1)] * len(said) for field in manifests.SCHEMA
    }
    names = [f"{number}.png" for number in range(len(said))]
    columns |= {
        "path": names,
        "group": names,
        "sha256": names,
        "split": ["train"] * len(said),
        "status": ["ok"] * len(said),
    }
    columns["captions"] = [json.dumps(each) for each in said]
    return Manifest.of(manifests.table_of(columns), root=Path("/pictures"), source="a test")


def resolved(**values) -> Config:
    given = {
        "caption.min_count": 1,
        "caption.longest": 6,
        "caption.per_image": 2,
        "caption.window": 1,
        "optim.label_smoothing": 0.0,
    }
    return Config().with_values(given | {key.replace("__", "."): value for key, value in values.items()})


def drawn(shape, *, seed=0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_data_decide_the_task():
    of = tasks.of(resolved(), manifest())
    assert of.name == tasks.name_of(manifest()) == "caption" and of.classes == ()
    assert dataclasses.replace(of, beams=1) == TASK
    assert tasks.name_of(probe.made_up(count=4, classes=2)) == "classify"
    again = tasks.restored(TASK.about())
    assert again.vocabulary == WORDS and (again.longest, again.beams) == (6, 1)
    assert tasks.restored(TASK.about(), beams=4).beams == 4


def test_every_word_and_end_count_and_nothing_else():
    targets = TASK.targets(manifest(), np.arange(3))
    assert targets.shape == (3, 3, 8) and targets[0, 0].tolist()[:5] == [START, *WORDS.encode("a red dog", 6)[1:]]
    assert targets[1, 0, -1] == END and (targets[0, 1:] == PAD).all()
    assert TASK.weights(targets).tolist() == [4, 7 + 2, 2 + 3 + 5]  # the longest is cut at 6 words
    assert targets.dtype == np.int16


def test_rare_words_are_unknown():
    task = tasks.of(resolved(caption__min_count=2), manifest())
    assert UNK in task.targets(manifest(), np.arange(3))[2, 2] and UNK not in TASK.targets(manifest(), np.arange(3))


@given(epoch=st.integers(0, 20), seed=st.integers(0, 3))
def test_an_epoch_takes_captions_of_each_image_by_their_turn(epoch, seed):
    targets, keys = TASK.targets(manifest(), np.arange(3)), np.arange(3)
    found = TASK.of_epoch(targets, keys=keys, seed=seed, epoch=epoch)
    assert found.shape[:2] == (3, 2)
    for image in range(3):
        own = {bytes(each[each != PAD].tobytes()) for each in targets[image] if each.any()}
        taken = [bytes(each[each != PAD].tobytes()) for each in found[image]]
        assert set(taken) <= own and len(set(taken)) == min(2, len(own))
    turned = TASK.of_epoch(targets[::-1], keys=keys[::-1], seed=seed, epoch=epoch)
    assert np.array_equal(turned[::-1], found)  # whoever is beside it, and on whichever rank


def test_padding_changes_no_loss_and_is_never_right():
    targets = torch.from_numpy(TASK.targets(manifest(), np.arange(3))).long()
    logits = drawn((3, 3, 7, len(WORDS)))
    wide = torch.nn.functional.pad(targets, (0, 5))
    more = torch.cat([logits, drawn((3, 3, 5, len(WORDS)), seed=1)], 2)
    more[..., 7:, PAD] = 100.0  # sure of PAD
    for smoothing in (0.0, 0.1):
        task = dataclasses.replace(TASK, label_smoothing=smoothing)
        torch.testing.assert_close(task.loss_sum(more, wide), task.loss_sum(logits, targets), rtol=1e-12, atol=0)
        assert task.hits(more, wide) == task.hits(logits, targets)
        assert task.counted(wide) == task.counted(targets) == TASK.weights(targets.numpy()).sum()
    np.testing.assert_allclose(TASK.rows(more, wide), TASK.rows(logits, targets), rtol=1e-6)


def test_the_loss_is_the_mean_over_words_of_what_is_missing_to_certainty():
    targets = torch.from_numpy(TASK.targets(manifest(), np.arange(3))).long()
    logits = drawn((3, 3, 7, len(WORDS)))
    expected = sum(
        -float(logits[b, c, t].log_softmax(0)[targets[b, c, t + 1]])
        for b in range(3) for c in range(3) for t in range(7) if targets[b, c, t + 1] != PAD
    )  # fmt: skip
    assert float(TASK.loss_sum(logits, targets)) == pytest.approx(expected, rel=1e-12)
    rows = TASK.rows(logits, targets)
    assert rows[:, 0].sum() == pytest.approx(expected, rel=1e-6) and rows[:, 2].tolist() == [4, 9, 10]
    assert rows[:, 1].sum() == TASK.hits(logits, targets)


def test_a_captions_place_in_its_batch_changes_nothing():
    targets = torch.from_numpy(TASK.targets(manifest(), np.arange(3))).long()
    logits, turned = drawn((3, 3, 7, len(WORDS))), [2, 0, 1]
    for one, other in ((logits[turned], targets[turned]), (logits[:, turned], targets[:, turned])):
        torch.testing.assert_close(TASK.loss_sum(one, other), TASK.loss_sum(logits, targets), rtol=1e-12, atol=0)


def test_bf16_is_summed_in_fp32():
    targets = torch.from_numpy(TASK.targets(manifest(), np.arange(3))).long()
    logits = drawn((3, 3, 7, len(WORDS))).bfloat16()
    assert TASK.loss_sum(logits, targets).dtype == torch.float32


def test_evaluations_agree_but_for_rounding():
    rows = TASK.rows(drawn((3, 3, 7, len(WORDS))), torch.from_numpy(TASK.targets(manifest(), np.arange(3))).long())
    assert TASK.agree(rows, rows) and TASK.agree(rows * [1 + 1e-6, 1, 1], rows)
    for bad in (rows * [1.01, 1, 1], rows + [0, 1, 0], rows + [0, 0, 1], rows * [np.nan, 1, 1], rows[:2]):
        assert not TASK.agree(bad, rows)
    broken = np.full_like(rows, np.inf)
    assert not TASK.agree(broken, broken)


def test_classes_are_compared_where_they_are_clear():
    task, rows = Classify(("a", "b")), np.array([[1.0, 0.0], [0.5, 0.5 + 1e-6]])
    assert task.agree(rows, rows) and task.agree(rows[:, [0, 1]] - [[0, 0], [0, 1e-5]], rows)
    assert not task.agree(rows[:, ::-1], rows)
    for spoilt in (np.nan, np.inf):
        bad = rows.copy()
        bad[0] = spoilt
        assert not task.agree(bad, bad) and not task.agree(rows, bad) and not task.agree(bad, rows)


def test_the_table_and_what_is_told():
    task, images = TASK, manifest()
    outputs = np.array([[4.0, 3, 4], [9.0, 0, 9], [5.0, 10, 10]])
    table = task.table(images, np.arange(3), outputs)
    assert table["references"].to_pylist() == SAID and table["loss"].to_pylist() == [1.0, 1.0, 0.5]
    scores = task.score(table, split="train")
    assert scores["count"] == 3 and scores["words"] == 23 and scores["correct"] == 13
    assert scores["accuracy"] == pytest.approx(13 / 23) and scores["loss"] == pytest.approx(18 / 23)
    assert "caption" not in table.column_names and "cider" not in scores
    written = np.zeros((3, 9))
    written[:, 0] = np.log(0.25) * 2  # of two numbers: a word and END
    written[:, 1:4] = [[START, WORDS.number_of["cat"], END]] * 3
    assert task.told(written) == [("cat", pytest.approx(0.25))] * 3
    assert task.written(images, table, written)["caption"].to_pylist() == ["cat"] * 3


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (
            {"augment__mixup": 0.2},
            "augment.mixup is 0.2, and /pictures has captions: no sentence is true of two images",
        ),
        ({"augment__cutmix": 1.0}, "augment.cutmix is 1.0, and"),
        (
            {"optim__class_weights": "balanced"},
            "optim.class_weights is balanced, and /pictures has captions: images with",
        ),
        (
            {"data__sampling": "balanced"},
            "data.sampling is balanced, and /pictures has captions: images with captions have no",
        ),
        ({"data__image_px_start": 16}, "data.image_px_start is 16, and /pictures has captions: a captioner's grid"),
    ],
)
def test_what_sentences_cannot_have_is_refused(values, words):
    with pytest.raises(ConfigError, match=words) as error:
        tasks.check(resolved(**values), manifest())
    assert "leave it out" in str(error.value)


def test_sides_and_mirrors():
    sided = manifest([["a dog left of a cat"], ["a cat"]])
    with pytest.raises(
        ConfigError, match=r"1 training captions say left or right, first 'a dog left of a cat'.*leave --flip"
    ):
        tasks.check(resolved(augment__flip=True), sided)
    tasks.check(resolved(augment__flip=False), sided)
    tasks.check(resolved(augment__flip=True), manifest([["he is leftover"], ["a bright cat"]]))


def test_networks_of_the_other_task_are_refused():
    with pytest.raises(
        ConfigError, match=r"resnet18, which names classes.*use --model resnet18\+lstm or resnet18\+transf"
    ):
        TASK.model("resnet18", image_px=32, seed=0)
    with pytest.raises(
        ConfigError, match=r"resnet18\+lstm, which writes captions, and the data has classes; use --model resnet18"
    ):
        Classify(("a", "b")).model("resnet18+lstm", image_px=32, seed=0)


def test_words_that_it_cannot_write_are_counted_and_named():
    assert TASK.lacks(manifest(), np.arange(3)) == []
    other = manifest([["a red Ente", "ente zwei"], ["a cat"]])
    (note,) = TASK.lacks(other, np.arange(2))
    assert note.startswith(
        "3 of the 7 words of these captions (42.9%) are not in the run's vocabulary, most often 'ente'"
    )
    assert TASK.lacks(other, np.array([1])) == []


def test_wide_beams_write_few_images_at_once_and_the_same(monkeypatch):
    task = dataclasses.replace(TASK, beams=4)
    model = task.model("small-cnn+transformer32x1", image_px=16, seed=0).model.eval()
    images = torch.randn((5, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    whole, sizes = task.write(model, images), []
    inner = decode.generate

    def counted(model, images, **how):
        sizes.append(len(images))
        return inner(model, images, **how)

    monkeypatch.setattr(caption, "AT_ONCE", 9)
    monkeypatch.setattr(decode, "generate", counted)
    torch.testing.assert_close(task.write(model, images), whole, rtol=1e-5, atol=0)
    assert sizes == [2, 2, 1]


@pytest.mark.parametrize(("longest", "beams"), [(1, 1), (1, 3), (6, 2)])
def test_a_sentence_has_at_most_as_many_words_as_were_asked_for(longest, beams):
    """Also of a network that never comes to an end: END is made the unlikeliest word of all."""
    task = dataclasses.replace(TASK, longest=longest, beams=beams)
    model = task.model("small-cnn+transformer32x1", image_px=16, seed=0).model.eval()
    inner = model.decoder.step

    def endless(words, state):
        logits, attention = inner(words, state)
        logits[..., END] = -50.0
        return logits, attention

    model.decoder.step = endless
    images = torch.randn((3, 3, 16, 16), generator=torch.Generator().manual_seed(0))
    outputs = task.write(model, images).numpy()
    assert [len(text.split()) for text in task.said(outputs)] == [longest] * 3
    assert task.look(model, images)["words"].shape == (3, longest)
    assert all(0 < score <= 1 for _, score in task.told(outputs))


def test_what_writes_and_what_does_not():
    assert tasks.writes(TASK) and not tasks.writes(Classify(("a", "b")))
    for name in ("write", "written", "look", "told"):
        assert hasattr(TASK, name) and not hasattr(Classify, name)


def test_beams_are_for_captions():
    with pytest.raises(ConfigError, match="--beams is 0; it must be from 1 to 100"):
        tasks.restored(TASK.about(), beams=0)
    with pytest.raises(ConfigError, match="--beams 3 is for captions, and the run names classes; leave it out"):
        tasks.restored(Classify(("a", "b")).about(), beams=3)


@pytest.mark.parametrize("change", [{"beams": 0}, {"beams": 10**9}, {"longest": 0}])
def test_weights_that_say_what_cannot_be_are_refused(change):
    with pytest.raises(ConfigError, match=r"sentences of \d words, written by \d+ beams, which cannot be"):
        tasks.restored(TASK.about() | change)


@pytest.mark.parametrize(
    ("name", "value"), [("beams", 5), ("min_count", 2), ("longest", 9), ("per_image", 1), ("window", 4)]
)
def test_options_of_captions_are_refused_where_there_are_none(name, value):
    classes = probe.made_up(count=4, classes=2)
    tasks.check(Config(), classes)
    with pytest.raises(
        ConfigError, match=f"caption.{name} is {value}, and .* has classes and no captions; leave it out"
    ):
        tasks.check(Config().with_values({f"caption.{name}": value}), classes)


def test_made_up_targets_are_like_the_real_ones():
    like = probe.likeness(resolved(), manifest())
    assert like == {"words": len(WORDS) - 4, "captions": 2, "longest": 6}
    task = tasks.of(resolved(), probe.made_up(count=2, **like))
    assert len(task.vocabulary) == len(WORDS)
    targets = task.targets(probe.made_up(count=2, **like), np.arange(2))
    assert targets.shape == (2, 2, 8) and (targets != PAD).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ("a", "cat", "dog"),
            "of 7 words, and these captions have 7, which differ, first 'cat' there where 'dog' is here; give",
        ),
        (("a", "dog"), "of 6 words, and these captions have 7, which differ, their numbers 6 and 7; give"),
    ],
)
def test_weights_of_other_words_are_refused(tmp_path, words, message):
    """As many words would fit, and every number would mean another one."""
    here, there = (Caption(Vocabulary((*SPECIAL, *each)), 6, 2, 1) for each in (("a", "dog", "cat"), words))
    path = tmp_path / "whole.safetensors"
    made = there.model("small-cnn+lstm8", image_px=16, seed=0).model
    save_file(made.state_dict(), path, metadata={"fanlight": json.dumps(there.about())})
    with pytest.raises(ConfigError, match=message):
        here.model("small-cnn+lstm8", image_px=16, seed=0, weights=str(path))
    again = there.model("small-cnn+lstm8", image_px=16, seed=1, weights=str(path)).model
    assert all(torch.equal(value, made.state_dict()[key]) for key, value in again.state_dict().items())


def test_scenes_are_judged_also_at_other_images(tmp_path, monkeypatch):
    """Per split; the true sentence of each image is right there and hardly anywhere else."""
    counts = {"train": 2, "val": 6, "test": 5}
    monkeypatch.setattr(write, "COUNTS", counts)
    described = scan.scan(recognise("shapes", cache=tmp_path))
    rows = np.flatnonzero(described.column("split") != "train")
    truth = [json.loads(described.column("captions")[row])[0] for row in rows]
    task = Caption(Vocabulary.of(truth, 1), longest=30, per_image=1, beams=1)
    ids = np.zeros((len(rows), 33))
    for place, text in enumerate(truth):
        encoded = task.vocabulary.encode(text, 30)
        ids[place, 1 : 1 + len(encoded)] = encoded
    table = task.written(described, task.table(described, rows, np.ones((len(rows), 3))), ids)
    for split in ("val", "test"):
        scores = task.score(table, split=split)
        assert scores["count"] == counts[split] and scores["true_and_complete"] == 1 and scores["true_elsewhere"] < 0.2
        assert f"required, {scores['true_elsewhere']:.3f} with captions at other images" in "\n".join(words(scores))
    assert "true_elsewhere" in task.kept
