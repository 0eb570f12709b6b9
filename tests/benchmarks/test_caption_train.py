"""The loop by hand that captioners' training is compared with: it computes what Fanlight does, and what it freezes is a file."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import caption_train
import fanlight
from fanlight.data import vocabulary
from fanlight.data.vocabulary import Vocabulary
from fanlight.models import zoo
from fanlight.tasks.caption import Caption
from fanlight.types import END, PAD, START, UNK
from train import sentences

WORDS = 9
CAPTIONS = torch.tensor([
    [[START, 4, 5, 4, END, PAD], [START, 8, UNK, END, PAD, PAD]],
    [[START, 6, 7, 8, 4, END], [PAD] * 6],
])  # fmt: skip


@pytest.mark.parametrize("detects", [True, False])
def test_the_loss_is_fanlights(detects):
    known = Vocabulary((*vocabulary.SPECIAL, *map(str, range(4, WORDS))))
    task = Caption(known, longest=4, per_image=2, beams=1, label_smoothing=0.1)
    said = torch.randn(2, 2, 6, WORDS, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    said = said if detects else said[:, :, 1:]
    expected = task.loss_sum(said, CAPTIONS) / task.counted(CAPTIONS)
    found = caption_train.loss_by_hand(said, CAPTIONS, label_smoothing=0.1)
    assert float(found) == pytest.approx(float(expected), rel=1e-12)


def test_what_is_frozen_is_the_encoders(tmp_path):
    path = caption_train.write_weights("small-cnn+lstm16", 16, tmp_path / "encoder.safetensors")
    made = zoo.create("small-cnn+lstm16", classes=WORDS, image_px=16, seed=5, longest=6, weights=path).model
    encoder = zoo.create("small-cnn", classes=2, image_px=16, seed=0).model.state_dict()
    kept = made.encoder.state_dict()
    assert kept and all(torch.equal(value, encoder[key]) for key, value in kept.items())


@pytest.mark.slow
def test_it_runs(tmp_path):
    data = sentences.make(tmp_path / "data")
    folders = [Path(fanlight.__file__).parents[1], Path(caption_train.__file__).parent]
    words = "--model small-cnn+lstm16 --image-size 16 --batch-size 8 --blocks 1 --steps 1 --rounds 1"
    ended = subprocess.run(
        [sys.executable, caption_train.__file__, data, *words.split()], cwd=tmp_path, capture_output=True, text=True,
        env=os.environ | {"FANLIGHT_CACHE": str(tmp_path / "cache"), "PYTHONPATH": os.pathsep.join(map(str, folders))},
    )  # fmt: skip
    assert ended.returncode == 0, ended.stderr
    assert "| by hand, batches in memory |" in ended.stdout and "| computed once |" in ended.stdout, json.dumps(
        ended.stdout
    )
