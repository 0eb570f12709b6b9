"""Scores against the published tool's, the blind test, the intervals, and what cannot be scored."""

import itertools

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fanlight.tasks import caption_scores, resampling
from fanlight.tasks.caption_rouge import rouge_l, subsequence
from fanlight.tasks.caption_scores import NAMES, of_table, report, score
from tasks.test_caption_words import golden

ATOL = 1e-8  # golden files have 9 digits of a set's score; arithmetic in another order moves the 15th
ATOL_OF_IMAGES = 1e-6  # they have 6 of an image's
COLOURS = ("red", "blue", "green", "white", "black")
THINGS = ("dog", "cat", "bus", "kite", "pizza", "train", "horse")


def agrees(found, want, *, atol):
    for name, value in want.items():
        np.testing.assert_allclose(found[name], value, rtol=0, atol=atol, err_msg=name)


@pytest.mark.parametrize("turn", range(5))
def test_captions_of_coco_score_as_published(turn):
    made = golden("coco")
    want = made["turns"][turn]
    images = made["captions"]
    found = score([each[turn] for each in images], [each[:turn] + each[turn + 1 :] for each in images])
    agrees(found, want["scores"], atol=ATOL)
    assert found["cider_d"] == found["cider"]
    if want["per_image"]:
        agrees(found["per_image"], want["per_image"], atol=ATOL_OF_IMAGES)


def test_the_published_example_scores_as_published():
    made = golden("example")
    captions = made["captions"]
    found = score(captions, [[captions[each] for each in some] for some in made["references"]])
    agrees(found, made["scores"], atol=ATOL)
    agrees(found["per_image"], made["per_image"], atol=ATOL_OF_IMAGES)


def test_drawn_lines_score_as_published():
    made = golden("tokens")
    lines = [line for line, _ in made["lines"]]
    others = [[lines[(at * 7 + 1) % 1000], " ".join(reversed(lines[at].split())), lines[at - 1]] for at in range(1000)]
    agrees(score(lines, others), made["scores"], atol=ATOL)


def pictures(count, *, seed=0):
    """Captions that say what is seen, and two references of each image."""
    pairs = list(itertools.product(COLOURS, THINGS))
    picked = np.random.default_rng(seed).integers(len(pairs), size=count)
    captions = [f"a {pairs[at][0]} {pairs[at][1]} on the grass" for at in picked]
    return captions, [[text, text.replace("on the grass", "in a field")] for text in captions]


def test_perfect_captions_score_one_and_cider_ten():
    captions = [f"one {colour} {thing} stands by two {thing}s" for colour in COLOURS for thing in THINGS]
    found = score(captions, [[each] for each in captions])
    assert found["bleu4"] == pytest.approx(1) and found["rouge_l"] == pytest.approx(1)
    assert found["cider"] == pytest.approx(10) and found["cider_plain"] == pytest.approx(10)


def test_bleu_of_a_set_is_no_mean_of_images():
    captions, references = ["a dog runs in the park", "a cat"], [["a dog runs in the park"], ["the old cat sleeps"]]
    found = score(captions, references)
    assert found["bleu1"] != pytest.approx(found["per_image"]["bleu1"].mean())


def test_one_image_has_no_cider_and_says_so():
    found = report(["a dog"], [["a dog"]])
    assert found["cider"] is None and found["cider_d"] is None and found["rouge_l"] == 1
    assert found["notes"] == [caption_scores.LONELY] and found["blind"] is None and found["intervals"] == {}
    assert np.isnan(score(["a dog"], [["a dog"]])["per_image"]["cider"]).all()


def test_references_that_the_scores_cannot_divide_are_told():
    plain = report(["a dog", "a cat"], [["un café", "a dog"], ["don’t – 25 °C"]])
    assert plain["notes"] == []
    said = [["一只狗在草地上奔跑", "a dog"], ["😀🎉🔥"], ["كلب يجري على العشب"]]
    found = report(["a dog", "😀🎉🔥", "كلب يجري"], said)
    (note,) = found["notes"]
    assert note.startswith(
        "2 of the 4 references, such as '一只狗在草地上奔跑', have fewer than half their words in these scores"
    )
    rows = pa.table({"split": ["val"] * 3, "caption": ["a dog", "a cat", "a dog"], "references": said})
    assert of_table(rows, split="val")["notes"] == [note]


def test_no_images_have_no_score():
    found = report([], [])
    assert all(found[name] is None for name in NAMES) and found["mean_length"] is None and found["repeated"] is None


def test_captions_without_words_score_nothing_and_break_nothing():
    found = score(["", "...", "a dog"], [["a dog"], ["a cat", ""], ["a dog"]])
    assert 0 < found["bleu1"] < 1 and found["per_image"]["cider"][0] == 0
    assert found["per_image"]["rouge_l"].tolist() == [0, 1, 1]  # as the published tool: no words equal no words


def test_wrong_input_is_refused():
    with pytest.raises(ValueError, match="2 captions for the references of 1 images"):
        score(["a", "b"], [["a"]])
    with pytest.raises(ValueError, match="image 1 has no reference: nothing to score its caption by"):
        score(["a", "b"], [["a"], []])


def test_the_blind_test_tells_seeing_from_guessing():
    captions, references = pictures(200)
    seen = report(captions, references)["blind"]
    assert all(gap["interval"][0] > 0 for gap in seen["gaps"].values())
    assert seen["scores"]["cider"] + seen["gaps"]["cider"]["gap"] == pytest.approx(score(captions, references)["cider"])
    same = report(["a red dog on the grass"] * 200, references)["blind"]
    assert all(gap["gap"] == 0 and gap["interval"] == [0, 0] for gap in same["gaps"].values())


def test_the_blind_test_scores_what_stands_elsewhere():
    captions, references = pictures(50)
    moved = resampling.derangement(50, seed=3)
    here = np.empty(50, np.int64)
    here[moved] = np.arange(50)
    want = score([captions[at] for at in here], references)
    agrees(report(captions, references, seed=3)["blind"]["scores"], {name: want[name] for name in NAMES}, atol=1e-12)


def test_the_order_of_images_changes_no_score():
    made = golden("coco")["captions"]
    captions, references = [each[0] for each in made], [each[1:] for each in made]
    order = np.random.default_rng(1).permutation(len(captions))
    turned = score([captions[at] for at in order], [references[at] for at in order])
    want = score(captions, references)
    agrees(turned, {name: want[name] for name in NAMES}, atol=1e-12)
    agrees(turned["per_image"], {name: want["per_image"][name][order] for name in NAMES}, atol=1e-12)


def test_intervals_hold_the_score_and_narrow_with_images():
    def width(count):
        captions, references = pictures(count)
        wrong = [text if at % 3 else "a man" for at, text in enumerate(captions)]
        found = report(wrong, references)
        for name in NAMES:
            low, high = found["intervals"][name]
            assert low <= found[name] <= high
        return found["intervals"]["cider"][1] - found["intervals"]["cider"][0]

    assert width(400) < 0.7 * width(100)


def test_resampling_covers_a_mean_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(200):
        low, high = resampling.interval(resampling.sums(rng.exponential(size=(60, 1)), seed=trial)[:, 0] / 60)
        covered += low <= 1 <= high
    assert 0.88 <= covered / 200 <= 0.98  # percentiles of a skewed law: a little below 95 %


@given(st.integers(2, 300), st.integers(0, 5))
def test_a_derangement_moves_everything(count, seed):
    moved = resampling.derangement(count, seed=seed)
    assert sorted(moved) == list(range(count)) and (moved != np.arange(count)).all()


def test_one_cannot_change_places():
    with pytest.raises(ValueError, match="1 cannot change places"):
        resampling.derangement(1)


@given(*[st.lists(st.sampled_from("abcd"), max_size=80)] * 2)
def test_common_subsequences_by_bits_equal_the_table(first, second):
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, j in itertools.product(range(len(first)), range(len(second))):
        same = first[i] == second[j]
        table[i + 1][j + 1] = table[i][j] + 1 if same else max(table[i][j + 1], table[i + 1][j])
    assert subsequence(first, second) == table[-1][-1]


def test_rouge_takes_the_best_of_each():
    assert rouge_l(["a", "b"], [list("abcd"), ["a"]]) == 1  # precision of one, recall of the other


def test_wording_counts_what_is_said_again():
    found = report(["A dog.", "a dog", "two cats run", ""], [["the dog"], ["a dog"], ["cats"], ["sky"]])
    assert found["vocabulary_used"] == 5 and found["distinct"] == 3 and found["repeated"] == 0.5 and found["empty"] == 1
    assert found["mean_length"] == 7 / 4 and found["most_common"] == {"caption": "a dog", "count": 2}


def table(**columns):
    count = len(columns["caption"])
    start = {"sample": range(count), "path": [f"{at}.jpg" for at in range(count)], "split": ["val"] * count}
    return pa.table(start | columns)


def test_a_table_is_scored_by_split_and_without_images_that_have_no_reference():
    captions, references = pictures(20)
    split = ["val"] * 12 + ["test"] * 8
    references[3] = []
    found = caption_scores.of_table(table(caption=captions, references=references, split=split), split="val")
    assert (found["split"], found["count"], found["without_references"]) == ("val", 11, 1)
    kept = [at for at in range(12) if at != 3]
    assert found["cider"] == score([captions[at] for at in kept], [references[at] for at in kept])["cider"]
    assert found["true_and_complete"] is None


def test_a_table_of_shapes_has_the_share_of_true_captions():
    captions, references = pictures(10)
    true = [True] * 8 + [False, None]
    found = caption_scores.of_table(table(caption=captions, references=references, true_and_complete=true), split="val")
    low, high = found["intervals"]["true_and_complete"]
    assert found["true_and_complete"] == 8 / 9 and low < 8 / 9 < high
