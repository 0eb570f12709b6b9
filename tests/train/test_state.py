"""Checkpoints: exact, whole or absent, and refused where they would hold one rank's opinion."""

import json
from pathlib import Path

import pytest
import torch

from fanlight.errors import RunError, TrainingError
from fanlight.parallel.comm import alone
from fanlight.train import state

JOBS = "parallel.state_jobs:"
TENSORS = {"model.a": torch.arange(6.0).view(2, 3), "optim.a.step": torch.tensor(4.0)}


def save(folder: Path, step: int, *, keep: int = 2, tensors: dict[str, torch.Tensor] | None = None) -> Path:
    return state.save(folder, tensors=tensors or TENSORS, document={"step": step}, world=alone(), keep=keep)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_what_was_saved_is_loaded_bit_for_bit(pool, tmp_path, ranks):
    """0-dim and int64 tensors, every float width, bool, views and channels last; signs of 0, too."""
    answers = pool(ranks).run(f"{JOBS}save_and_load", checkpoints=str(tmp_path), step=12)
    assert [answer.pop("document").items() >= {"step": 12, "x": 1.5}.items() for answer in answers] == [True] * ranks
    assert answers == [{"name": "step-00000012", "same": True}] * ranks
    assert names(tmp_path) == ["step-00000012"]
    assert {path.suffix for path in (tmp_path / "step-00000012").iterdir()} == {".safetensors", ".json"}


@pytest.mark.parametrize(("before", "after"), [(1, 3), (4, 1), (2, 3)])
def test_any_number_of_ranks_reads_anothers_checkpoint(pool, tmp_path, before, after):
    pool(before).run(f"{JOBS}save_and_load", checkpoints=str(tmp_path), step=1)
    digests = pool(after).run(f"{JOBS}load_only", checkpoint=str(tmp_path / "step-00000001"))
    assert digests == pool(1).run(f"{JOBS}load_only", checkpoint=str(tmp_path / "step-00000001")) * after


def test_the_newest_are_kept(tmp_path):
    for step in (1, 2, 10, 9):  # by step, not by time
        save(tmp_path, step)
    assert names(tmp_path) == ["step-00000009", "step-00000010"]
    assert [path.name for path in state.whole(tmp_path)] == names(tmp_path)
    save(tmp_path, 11, keep=1)
    assert names(tmp_path) == ["step-00000011"]


def test_the_same_step_may_be_saved_again(tmp_path):
    save(tmp_path, 3, keep=1)
    save(tmp_path, 3, keep=1, tensors={"model.a": torch.ones(2)})
    assert names(tmp_path) == ["step-00000003"]
    assert state.load(tmp_path / "step-00000003")[0]["model.a"].tolist() == [1, 1]


@pytest.mark.parametrize("at", ["write_text", "_sync", "rename"])
@pytest.mark.parametrize("step", [2, 1])
def test_an_interrupted_save_leaves_the_one_before_whole(tmp_path, monkeypatch, at, step):
    """Wherever it breaks off, also when the same step is saved again."""
    save(tmp_path, 1, keep=1)

    def break_off(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*((state, "_sync") if at == "_sync" else (Path, at)), break_off)
        with pytest.raises(KeyboardInterrupt):
            save(tmp_path, step, keep=1, tensors={"model.a": torch.ones(2)})
    assert [path.name for path in state.whole(tmp_path)] == ["step-00000001"]
    tensors, document = state.load(tmp_path / "step-00000001")
    assert torch.equal(tensors["model.a"], TENSORS["model.a"]) and document["step"] == 1
    save(tmp_path, 4, keep=1)
    assert names(tmp_path) == ["step-00000004"]  # what was left behind is gone


def test_nothing_is_whole_in_a_new_run(tmp_path):
    assert state.whole(tmp_path / "checkpoints") == []


def test_another_version_is_refused_with_the_way_out(tmp_path):
    path = save(tmp_path, 1)
    about = json.loads((path / "state.json").read_text())
    (path / "state.json").write_text(json.dumps({**about, "version": 99}))
    message = r"step-00000001 has version 99; this Fanlight reads 2\. Use the Fanlight that wrote it, or train again"
    with pytest.raises(RunError, match=message):
        state.load(path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (
            lambda whole: whole[:-8],
            r"step-00000001 cannot be read: rank-00000-of-00001.safetensors has \d+ bytes and was written with \d+",
        ),
        (lambda whole: None, r"step-00000001 cannot be read: rank-00000-of-00001.safetensors is missing"),
        (lambda whole: b"\xff" * 16 + whole[16:], r"step-00000001 cannot be read \(.*\)"),
        (lambda whole: bytes(len(whole)), r"step-00000001 cannot be read \(.*\)"),
    ],
    ids=["truncated", "removed", "header", "zeros"],
)
def test_damaged_tensors_are_refused(tmp_path, damage, message):
    path = save(tmp_path, 1)
    file = next(path.glob("*.safetensors"))
    content = damage(file.read_bytes())
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(RunError, match=f"(?s){message}; delete it to use the one before"):
        state.load(path)


def test_a_missing_ranks_file_is_noticed(pool, tmp_path):
    pool(3).run(f"{JOBS}save_and_load", checkpoints=str(tmp_path), step=1)
    files = sorted((tmp_path / "step-00000001").glob("*.safetensors"))
    assert len(files) == 3
    files[1].unlink()
    for ranks in (1, 3):
        with pytest.raises(RunError, match=rf"step-00000001 cannot be read: {files[1].name} is missing; delete it"):
            pool(ranks).run(f"{JOBS}load_only", checkpoint=str(tmp_path / "step-00000001"))


@pytest.mark.parametrize("text", [None, "", '{"version": 1, "st', "[]", "{}"])
def test_a_checkpoint_without_its_document_is_refused(tmp_path, text):
    path = save(tmp_path, 1)
    (path / "state.json").unlink()
    if text is not None:
        (path / "state.json").write_text(text)
    with pytest.raises(RunError, match=r"step-00000001 is no whole checkpoint .*; delete it to use the one before"):
        state.load(path)


@pytest.mark.parametrize("place", [0, 1, 65_520 * 2 + 1, 139_999])
@pytest.mark.parametrize("ranks", [2, 4])
def test_a_tensor_that_differs_between_ranks_is_refused_by_name(pool, tmp_path, ranks, place):
    """In any one bit; it would come back as one rank's."""
    message = rf"^model\.odd differs between rank 0 and ranks \[{ranks - 1}\] \(1 such tensors\); not saved"
    with pytest.raises(TrainingError, match=message):
        pool(ranks).run(f"{JOBS}save_unequal", checkpoints=str(tmp_path), key="model.odd", place=place)
    assert names(tmp_path) == []


def test_what_is_written_is_what_was_when_saving_began(tmp_path):
    tensors = {"model.a": torch.ones(3), "model.b": torch.zeros(2, 3, 4, 4).to(memory_format=torch.channels_last)}
    final, write = state.begin(tmp_path, tensors=tensors, document={"step": 1}, world=alone(), keep=1)
    assert not final.exists()
    for tensor in tensors.values():
        tensor.add_(1)
    write()
    kept = state.load(final)[0]
    assert torch.equal(kept["model.a"], torch.ones(3)) and torch.equal(kept["model.b"], torch.zeros(2, 3, 4, 4))


def test_a_background_error_surfaces_once_where_it_is_waited_for():
    background = state.Background()
    background.start(lambda: 1 / 0)  # type: ignore[arg-type,return-value]
    with pytest.raises(ZeroDivisionError):
        background.start(lambda: None)
    done: list[int] = []
    background.start(lambda: done.append(1))
    background.wait()
    background.wait()
    assert done == [1]
