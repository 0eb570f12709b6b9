import itertools
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fanlight.data.manifest import SCHEMA, Manifest
from fanlight.data.split import assign, limit
from fanlight.errors import ConfigError, DataError

Row = tuple[str, str, str]  # label, split, group


def manifest(rows: list[Row], *, hashes: list[str] | None = None, quarantined: tuple[int, ...] = ()) -> Manifest:
    hashes = hashes or [f"sha {number:05d}" for number in range(len(rows))]
    columns = {
        "path": [f"{number:05d}" for number in range(len(rows))],
        "label": [row[0] for row in rows],
        "split": [row[1] for row in rows],
        "group": [row[2] or own for row, own in zip(rows, hashes)],
        "sha256": hashes,
        "status": ["quarantined" if number in quarantined else "ok" for number in range(len(rows))],
    }
    empty: dict[pa.DataType, object] = {pa.string(): "", pa.bool_(): False}
    rest = {field.name: [empty.get(field.type, 1)] * len(rows) for field in SCHEMA}
    return Manifest.of(pa.table(rest | columns, schema=SCHEMA), root=Path("/data"), source="test")


def plain(counts: dict[str, int]) -> Manifest:
    return manifest([(label, "", "") for label, count in counts.items() for _ in range(count)])


def split_of(found: Manifest) -> list[str]:
    return found.column("split").tolist()


def straddling(found: Manifest) -> set[str]:
    train, val = (set(found.column("group")[found.rows(split)]) for split in ("train", "val"))
    return train & val


grouped_rows = st.lists(
    st.tuples(
        st.sampled_from("abc"),
        st.sampled_from(["", "train", "test"]),
        st.sampled_from([f"g{n}" for n in range(9)] + [""]),
    ),
    min_size=12,
    max_size=80,
).map(lambda rows: [(label, "", "") for label in "abc" for _ in range(2)] + rows)


@settings(deadline=None)
@given(grouped_rows, st.integers(0, 9), st.floats(0.05, 0.9))
def test_groups_never_straddle_and_every_row_is_somewhere(rows: list[Row], seed: int, val_fraction: float) -> None:
    before = manifest(rows)
    after = assign(before, val_fraction=val_fraction, seed=seed)
    assert not straddling(after)
    assert after.rows("test").tolist() == before.rows("test").tolist()
    assert sum(after.rows(split).size for split in ("train", "val", "test")) == len(rows)
    assert set(after.labels[after.rows("train")]) == {0, 1, 2}
    assert after.rows("val").size


@settings(deadline=None)
@given(st.permutations(range(30)), st.integers(0, 3))
def test_order_of_files_does_not_matter(order: list[int], seed: int) -> None:
    rows: list[Row] = [("ab"[number % 2], "", f"g{number // 3}" if number < 15 else "") for number in range(30)]
    before = manifest(rows)
    expected = dict(zip(before.column("path"), split_of(assign(before, val_fraction=0.3, seed=seed))))
    shuffled = assign(before.take(np.array(order)), val_fraction=0.3, seed=seed)
    assert dict(zip(shuffled.column("path"), split_of(shuffled))) == expected


@settings(deadline=None)
@given(st.integers(2, 60), st.integers(2, 60), st.floats(0.01, 0.9))
def test_no_class_is_far_from_its_share(first: int, second: int, val_fraction: float) -> None:
    after = assign(plain({"a": first, "b": second}), val_fraction=val_fraction, seed=1)
    for label, count in enumerate((first, second)):
        in_val = int((after.labels[after.rows("val")] == label).sum())
        assert 1 <= in_val <= count - 1
        assert abs(in_val - val_fraction * count) <= max(1, 0.35 * val_fraction * count - 1) + 1e-9


def test_seed_decides() -> None:
    one = plain({"a": 50, "b": 50})
    first, again, other = (split_of(assign(one, val_fraction=0.2, seed=seed)) for seed in (0, 0, 1))
    assert first == again
    assert first != other
    assert 14 <= first.count("val") <= 26


@pytest.mark.parametrize("seed", range(4))
def test_no_file_moves_when_others_come(seed: int) -> None:
    """While the hash alone brings the classes near their shares, and copies of what is there join its group."""
    few = manifest([("a", "", "")] * 500 + [("b", "", "")] * 800)
    rows: list[Row] = [("a", "", f"new {number}") for number in range(400)] + [("c", "", f"c {n}") for n in range(500)]
    many = manifest([("a", "", "")] * 500 + [("b", "", "")] * 800 + rows + [("a", "", "")] * 2)
    copies = np.full(len(many), "", object)
    copies[[3, 700, len(many) - 2]] = copies[[4, len(many) - 1]] = "one picture"
    before, after = (split_of(assign(each, val_fraction=0.2, seed=seed)) for each in (few, many))
    assert before == after[:1300]
    joined = many.with_columns(copies=copies)
    moved = [
        row
        for row, split in enumerate(split_of(assign(joined, val_fraction=0.2, seed=seed))[:1300])
        if split != before[row]
    ]
    assert set(moved) <= {4, 700}  # those that are found to show what file 3 shows, whose hash is the smallest


def test_a_class_far_from_its_share_gets_the_next_groups() -> None:
    """One file more, and at most one group changes sides."""
    sizes = [split_of(assign(plain({"a": count, "b": 9}), val_fraction=0.3, seed=1))[:count] for count in range(9, 60)]
    for split in sizes:
        target = 0.3 * len(split)
        assert abs(split.count("val") - target) <= max(0.35 * target - 1, 0.5) + 1e-9
    moves = [sum(one != other for one, other in zip(few, more)) for few, more in itertools.pairwise(sizes)]
    assert max(moves) <= 1


def test_what_an_audit_found_stays_together() -> None:
    """A chain: 0 and 1 show one picture, 1 and 2 are of one group, 2 and 3 have the same bytes."""
    rows: list[Row] = [(label, "", "pair" if number in (1, 2) else "") for label in "ab" for number in range(30)]
    hashes = [f"sha {3 if number == 2 else number}" for number in range(60)]
    before = manifest(rows, hashes=hashes)
    before = before.with_columns(copies=np.array(["x", "x"] + [""] * 58, object))
    sides = {tuple(split_of(assign(before, val_fraction=0.4, seed=seed))[:4]) for seed in range(12)}
    assert sides == {("train",) * 4, ("val",) * 4}


def test_given_val_is_kept() -> None:
    rows: list[Row] = [("a", "train", ""), ("b", "", ""), ("a", "val", ""), ("b", "test", "")]
    assert split_of(assign(manifest(rows), val_fraction=0.2, seed=0)) == ["train", "train", "val", "test"]


def test_quarantined_rows_are_left_alone() -> None:
    rows: list[Row] = [(label, "", "") for label in "ab" for _ in range(5)] + [("a", "", "")]
    after = assign(manifest(rows, quarantined=(10,)), val_fraction=0.2, seed=0)
    assert split_of(after)[10] == ""


def test_copies_stay_together_even_in_different_groups() -> None:
    rows: list[Row] = [(label, "", f"{label}{number}") for label in "ab" for number in range(20)]
    hashes = [f"sha {number // 2}" for number in range(39)] + ["sha 0"]
    for seed in range(5):
        after = assign(manifest(rows, hashes=hashes), val_fraction=0.3, seed=seed)
        of_split = [{hashes[row] for row in after.rows(split)} for split in ("train", "val")]
        assert not of_split[0] & of_split[1]
        assert of_split[1]


def test_large_groups_move_whole() -> None:
    rows: list[Row] = [("a", "", "film 1")] * 30 + [("a", "", "film 2")] * 10 + [("b", "", "")] * 10
    after = assign(manifest(rows), val_fraction=0.2, seed=0)
    assert (split_of(after)[:30].count("val"), split_of(after)[30:40].count("val")) == (0, 10)


def test_a_share_far_from_what_was_asked_for_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[Row] = [(label, "", f"{label} film {number // 20}") for label in "ab" for number in range(40)]
    after = assign(manifest(rows), val_fraction=0.2, seed=0)
    assert len(after.rows("val")) == 40
    assert "validation gets 50% of the images, not 20%" in (said := capsys.readouterr().err)
    assert "the largest group has 20" in said
    assign(plain({"a": 9, "b": 9}), val_fraction=0.05, seed=0)  # single images: small classes, not groups
    assert capsys.readouterr().err == ""


def test_class_of_one_group_stays_in_train_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[Row] = [("film", "", "g")] * 4 + [("b", "", "")] * 4
    after = assign(manifest(rows), val_fraction=0.25, seed=0)
    assert split_of(after)[:4] == ["train"] * 4
    assert "no validation images for film" in capsys.readouterr().err


@settings(deadline=None, max_examples=40)
@given(st.integers(2, 5), st.lists(st.integers(5, 40), min_size=2, max_size=4), st.integers(0, 5))
def test_folds_partition_the_pool(folds: int, counts: list[int], seed: int) -> None:
    rows: list[Row] = [(f"c{label}", "", "") for label, count in enumerate(counts) for _ in range(count)]
    rows += [("c0", "val", "pair"), ("c1", "train", "pair"), ("c0", "test", "")]
    before = manifest(rows)
    parts = [assign(before, val_fraction=0.2, seed=seed, folds=folds, fold=fold) for fold in range(folds)]
    assert sorted(np.concatenate([part.rows("val") for part in parts])) == list(range(len(rows) - 1))
    for part in parts:
        assert not straddling(part)
        assert part.rows("test").tolist() == [len(rows) - 1]
        for label, count in enumerate(counts):
            assert abs((part.labels[part.rows("val")] == label).sum() - count / folds) < 2
    sizes = [part.rows("val").size for part in parts]
    assert max(sizes) - min(sizes) <= 3


@pytest.mark.parametrize("val_fraction", [0.0, -0.1, 0.91, float("nan")])
def test_val_fraction_outside_is_refused(val_fraction: float) -> None:
    with pytest.raises(ConfigError, match=r"val_fraction .* is outside \(0, 0\.9\]"):
        assign(plain({"a": 5, "b": 5}), val_fraction=val_fraction, seed=0)


@pytest.mark.parametrize(("folds", "fold"), [(1, 0), (3, 3), (3, -1)])
def test_fold_outside_is_refused(folds: int, fold: int) -> None:
    with pytest.raises(ConfigError, match=f"fold {fold} of folds={folds}"):
        assign(plain({"a": 5, "b": 5}), val_fraction=0.2, seed=0, folds=folds, fold=fold)


def test_more_folds_than_groups_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"class b has 3 groups of images, fewer than folds=5; try folds=3"):
        assign(plain({"a": 5, "b": 3}), val_fraction=0.2, seed=0, folds=5)


def test_unusable_classes_are_refused() -> None:
    with pytest.raises(DataError, match="class b has a single image"):
        assign(plain({"a": 5, "b": 1}), val_fraction=0.2, seed=0)
    one_left = manifest([("a", "", ""), ("a", "", ""), ("b", "", "")], quarantined=(2,))
    for refuse in (lambda: assign(one_left, val_fraction=0.2, seed=0), lambda: limit(one_left, 2, seed=0)):
        with pytest.raises(DataError, match=r"one class only \(a\)"):
            refuse()
    with pytest.raises(DataError, match="no images to train on"):
        assign(manifest([("a", "test", ""), ("b", "test", "")]), val_fraction=0.2, seed=0)


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abcd"), st.sampled_from(["", "train", "val", "test"])), min_size=8, max_size=90
    ),
    st.integers(4, 100),
    st.integers(0, 3),
)
def test_limit_is_exact_and_leaves_no_class_out(pairs: list[tuple[str, str]], count: int, seed: int) -> None:
    rows: list[Row] = [(label, "", "") for label in "abcd"] + [(label, split, "") for label, split in pairs]
    before = manifest(rows)
    after = limit(before, count, seed=seed)
    assert after.rows().size == min(count, len(rows))
    assert after.classes == before.classes
    trains = after.rows()[np.isin(after.column("split")[after.rows()], ["", "train"])]
    assert set(after.labels[trains]) == {0, 1, 2, 3}
    assert set(after.column("path")) <= set(before.column("path"))
    assert after.column("path").tolist() == sorted(after.column("path"))


def test_limit_is_proportional_and_repeatable() -> None:
    before = manifest([("a", "train", "")] * 60 + [("a", "test", "")] * 20 + [("b", "train", "")] * 20)
    after = limit(before, 50, seed=0)
    assert [
        int((after.labels[after.rows(split)] == label).sum())
        for split, label in (("train", 0), ("test", 0), ("train", 1))
    ] == [
        30,
        10,
        10,
    ]
    assert after.fingerprint == limit(before, 50, seed=0).fingerprint
    assert after.fingerprint != limit(before, 50, seed=1).fingerprint


def test_limit_leaves_two_of_a_rare_class_so_that_one_can_validate() -> None:
    after = limit(plain({"a": 1000, "b": 3}), 10, seed=0)
    assert sorted(after.labels.tolist()).count(1) == 2
    assert assign(after, val_fraction=0.2, seed=0).rows("val").size


def test_limit_keeps_quarantined_rows_listed() -> None:
    before = manifest([("a", "", ""), ("b", "", "")] * 10, quarantined=(4,))
    after = limit(before, 6, seed=0)
    assert (after.rows().size, len(after)) == (6, 7)


def test_limit_below_the_classes_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"limit 1 is less than one image for each of 2 classes; try limit=20"):
        limit(plain({"a": 5, "b": 5}), 1, seed=0)


def shares(found: Manifest) -> dict[str, float]:
    """Of each class's pool, what is in val."""
    label = found.column("label")
    return {
        name: (label[found.rows("val")] == name).sum()
        / (np.isin(found.column("split"), ("train", "val")) & (label == name)).sum()
        for name in found.classes
    }


PATIENTS: list[Row] = [(label, "", f"p{patient}") for patient in range(40) for label in "ABCD" for _ in range(8)]


@pytest.mark.parametrize("seed", range(3))
def test_patients_of_several_classes_are_split(seed: int, capsys: pytest.CaptureFixture[str]) -> None:
    after = assign(manifest(PATIENTS), val_fraction=0.2, seed=seed)
    assert not straddling(after) and capsys.readouterr().err == ""
    assert all(abs(share - 0.2) <= 0.07 for share in shares(after).values())


def test_patients_of_several_classes_are_dealt_into_folds(capsys: pytest.CaptureFixture[str]) -> None:
    parts = [assign(manifest(PATIENTS), val_fraction=0.2, seed=0, folds=5, fold=fold) for fold in range(5)]
    assert sorted(np.concatenate([part.rows("val") for part in parts])) == list(range(len(PATIENTS)))
    for part in parts:
        assert not straddling(part)
        assert shares(part) == dict.fromkeys("ABCD", 0.2)
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize("seed", range(8))
def test_a_rare_class_in_few_of_the_patients_is_balanced(seed: int) -> None:
    rows: list[Row] = [("common", "", f"p{patient}") for patient in range(60) for _ in range(30)]
    rows += [("rare", "", f"p{patient * 7}") for patient in range(8) for _ in range(10)]
    after = assign(manifest(rows), val_fraction=0.2, seed=seed)
    assert not straddling(after)
    assert shares(after)["rare"] == 0.25  # two of eight, as near as whole patients come
    assert abs(shares(after)["common"] - 0.2) <= 0.07


def test_the_patients_of_other_classes_stay_where_their_hash_puts_them() -> None:
    """What is done for a rare class moves none but groups that hold it."""
    rows: list[Row] = [(label, "", f"p{patient}") for patient in range(60) for label in "ab" for _ in range(5)]
    before = split_of(assign(manifest(rows), val_fraction=0.2, seed=3))
    more: list[Row] = [("rare", "", f"p{patient}") for patient in range(6) for _ in range(10)]
    after = split_of(assign(manifest(rows + more), val_fraction=0.2, seed=3))
    moved = {rows[row][2] for row in range(len(rows)) if before[row] != after[row]}
    assert moved <= {f"p{patient}" for patient in range(6)}


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.just(""), st.sampled_from([f"g{n}" for n in range(7)])),
        min_size=6,
        max_size=70,
    ),
    st.integers(0, 9),
    st.floats(0.05, 0.6),
)
def test_mixed_groups(rows: list[Row], seed: int, val_fraction: float) -> None:
    """No group straddles, train has every class, and a class without validation images has none that could be spared."""
    rows += [(label, "", f"pair {side}") for label in "abc" for side in "xy"]
    before = manifest(rows)
    after = assign(before, val_fraction=val_fraction, seed=seed)
    assert not straddling(after)
    label, group = before.column("label"), before.column("group")
    in_train = set(after.rows("train").tolist())
    assert {label[row] for row in in_train} == set("abc")
    for name in set("abc") - set(label[after.rows("val")]):
        for its in set(group[label == name]):
            assert {label[row] for row in in_train if group[row] != its} != set("abc")


@settings(deadline=None, max_examples=40)
@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=9), min_size=6, max_size=25), st.integers(2, 4))
def test_mixed_groups_in_folds(groups: list[list[str]], folds: int) -> None:
    rows: list[Row] = [(label, "", f"g{number}") for number, group in enumerate(groups) for label in group]
    rows += [(label, "", f"one {number}") for number in range(4) for label in "abc"]
    before = manifest(rows)
    parts = [assign(before, val_fraction=0.2, seed=0, folds=folds, fold=fold) for fold in range(folds)]
    assert sorted(np.concatenate([part.rows("val") for part in parts])) == list(range(len(rows)))
    assert not any(straddling(part) for part in parts)


def test_a_fold_without_a_class_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    rows: list[Row] = [("a", "", "big"), ("b", "", "big"), ("a", "", "big"), ("b", "", "other"), ("a", "", "third")]
    assign(manifest(rows), val_fraction=0.2, seed=0)
    said = capsys.readouterr().err
    assert "no validation images" not in said, "third or other can go"
    rows = [("a", "", "one"), ("b", "", "one"), ("b", "", "one"), ("a", "", "one"), ("b", "", "two")]
    assign(manifest(rows), val_fraction=0.2, seed=0)
    assert "no validation images for a." in capsys.readouterr().err


def test_films_and_given_groups_stay_together_both() -> None:
    """A day has several films, and a film lasts over midnight."""
    rows: list[Row] = [(label, "", f"day {number // 8}") for label in "ab" for number in range(40)]
    film = [f"film {row // 40} {row % 40 // 10}" for row in range(30)] + [""] * 50
    before = manifest(rows).with_columns(film=film)
    for seed in range(5):
        after = assign(before, val_fraction=0.3, seed=seed)
        assert not straddling(after) and not after.leaked.any()
        in_val = np.isin(np.arange(80), after.rows("val"))
        assert all(len(set(in_val[start : start + 10].tolist())) == 1 for start in (0, 10, 20))
