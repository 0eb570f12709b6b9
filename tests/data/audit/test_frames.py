"""What is film, and what is merely numbered, on real images."""

from pathlib import Path

import numpy as np
import pytest

from fanlight.data import checkup
from fanlight.data.audit import frames
from fanlight.data.audit.signature import signature


def test_one_hand_after_the_other_is_no_film(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The built-in digits: numbered, and neighbours are more alike than others, but by far not as frames are."""
    monkeypatch.setenv("FANLIGHT_CACHE", str(tmp_path))
    manifest = checkup.up_to_date("digits", decode=False)
    rows = manifest.rows()
    colours = np.stack([signature(manifest.read(int(row)), thorough=False).colours for row in rows])
    assert frames.runs(manifest.column("path")[rows].tolist(), colours)[0] == []
