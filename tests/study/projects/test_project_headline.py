"""The sentence of each comparison: over what, how surely, and a slow-down by its name."""

from typing import Any

from fanlight.study.projects import beside, headline, page, recipe
from study.projects.made import ONE, TWO, became, changed, compared, loaded, over, point, row

CORE, CORES = "serial-1core-fp32", "serial-2cores-fp32"


def said(*points: dict[str, Any]) -> str:
    """Of GOOD's comparison; theirs with two is 1.25 of one."""
    (sentence,) = headline.words([compared(*points)])
    return sentence


def test_the_best_layout_is_over_one_core_and_over_one_process_on_all_cores():
    two = TWO | {"over": {"one_core": over(CORE, 1, 1.8, [1.7, 1.9]), "all_cores": over(CORES, 2, 1.1, [1.06, 1.15])}}
    assert said(ONE, two) == (
        "Epochs: theirs with two is 1.25× of one; here ddp-2-fp32 is 1.80× of one core (1.70 … 1.90), and 1.10× of one "
        "process on both cores (1.06 … 1.15)."
    )


def test_what_its_interval_does_not_tell_is_not_told_apart():
    """.89 with .6 in its interval and 1.3 as well is no slow-down, and 1.5 of so wide a one no gain."""
    two = TWO | {"over": {"one_core": over(CORE, 1, 1.5, [0.4, 5.1]), "all_cores": over(CORES, 2, 0.89, [0.6, 1.3])}}
    assert said(ONE, two).endswith(
        "here ddp-2-fp32 is 1.50× of one core (0.40 … 5.10), not told apart from it, and 0.89× of one process on both cores "
        "(0.60 … 1.30), not told apart from it."
    )
    assert "slow-down" not in said(ONE, two)


def test_a_gain_over_one_core_can_be_a_slow_down_over_all():
    two = TWO | {"over": {"one_core": over(CORE, 1, 1.3, None, n=1), "all_cores": over(CORES, 2, 0.71, None, n=1)}}
    assert said(ONE, two).endswith(
        "here ddp-2-fp32 is 1.30× of one core (a single round), and 0.71× of one process on both cores (a single round), a "
        "slow-down."
    )


def test_one_core_alone_is_said_once():
    """On a machine of one core, one process on all cores is the one on one core."""
    two = TWO | {"over": {"one_core": over(CORE, 1, 0.9, [0.88, 0.92]), "all_cores": over(CORE, 1, 0.9, [0.88, 0.92])}}
    assert said(ONE, two).endswith("here ddp-2-fp32 is 0.90× of one core (0.88 … 0.92), a slow-down.")


def test_gpus_are_over_one_gpu():
    one = point("serial-1gpu-fp32", "serial", 100.0, device="cuda")
    two = point("ddp-2gpus-fp32", "ddp", 190.0, ranks=2, cores=2, device="cuda",
                over={"one_device": over("serial-1gpu-fp32", 1, 1.9, [1.85, 1.95])})  # fmt: skip
    assert said(one, two).endswith("here ddp-2gpus-fp32 is 1.90× of one GPU (1.85 … 1.95).")


def test_no_layout_among_the_cases_leaves_one_process_on_all_cores():
    all_cores = point(CORES, "serial", 17.0, cores=2, over={
        "one_core": over(CORE, 1, 1.7, [1.6, 1.8]), "all_cores": over(CORES, 2, 1.0, None),
    })  # fmt: skip
    document = changed("comparisons/0/cases/1", {"case": "all", "reported": 80, "layout": "serial", "cores": "all"})
    parts = {"training": became(ONE, all_cores), "loading": became()}
    (sentence,) = headline.words(beside.compare(recipe.parse(document, name="photos"), parts))
    assert sentence.endswith("here serial-2cores-fp32 is 1.70× of one core (1.60 … 1.80).")


def test_a_slow_down_is_called_one_on_both_sides():
    """Without paired rounds: of both rates, with the widest interval that theirs allow."""
    slow = point("ddp-2-fp32", "ddp", 5.0, ranks=2, cores=2)
    document = changed("comparisons/0/cases/1/reported", 200)
    found = beside.compare(recipe.parse(document, name="photos"), {"training": became(ONE, slow), "loading": became()})
    assert headline.words(found) == [
        "Epochs: theirs with two is 0.50× of one, a slow-down; here ddp-2-fp32 is 0.50× of serial-1core-fp32 (0.36 … 0.67), "
        "a slow-down."
    ]


def test_nothing_measured_says_why():
    refused = TWO | {"status": "cannot run", "reason": "2 ranks take a core each, and 1 can be used"}
    assert said(ONE, refused).endswith("; here nothing: ddp-2-fp32: 2 ranks take a core each, and 1 can be used.")


def loading(cases: list[dict[str, Any]], *rows: dict[str, Any], unit: str) -> list[str]:
    document = changed("comparisons/0", {"title": "Images", "unit": unit, "part": "loading", "cases": cases})
    parts = {"training": became(), "loading": loaded(*rows)}
    return headline.words(beside.compare(recipe.parse(document, name="photos"), parts))


def test_unlike_work_has_a_range_and_no_best():
    cases = [
        {"case": "resizing", "reported": 8.1, "what": "resize", "engine": "Pool.imap"},
        {"case": "flipping", "reported": 0.002, "what": "flip", "engine": "Pool.imap"},
    ]
    rows = [
        row("resize", 650.0, speedup=0.037, speedup_interval=[0.035, 0.04]),
        row("flip", 670.0, speedup=1.4, speedup_interval=[0.9, 1.5]),
    ]
    assert loading(cases, *rows, unit="ratio") == [
        "Images: theirs is from 0.002× (flipping) to 8.10× (resizing); here from resize, Pool.imap, 1 worker, 0.037× of "
        "one core (0.035 … 0.040), a slow-down, to flip, Pool.imap, 1 worker, 1.40× of one core (0.90 … 1.50), not told "
        "apart from it."
    ]


def test_two_rounds_of_loading_have_no_interval():
    """Least and greatest of two say nothing about the next; of three they are one, and it may not tell them apart."""
    cases = [{"case": str(n), "reported": 10 / n, "what": "decode", "engine": "dask", "workers": n} for n in (1, 2)]
    for n, ends in ((2, " (2 rounds)"), (3, " (0.80 … 1.43), not told apart from it")):
        one = row("decode", 100.0, engine="dask", n=n) | {"interval": [84, 108]}
        two = row("decode", 110.0, engine="dask", workers=2, n=n) | {"interval": [86.4, 120]}
        assert loading(cases, one, two, unit="s") == [
            f"Images: theirs with 2 is 2.00× of 1; here decode, dask, 2 workers is 1.10× of decode, dask, 1 worker{ends}."
        ]


def test_a_score_of_drawn_weights_says_so_beside_it():
    note = "Published weights of resnet18 could not be had; accuracies say nothing."
    document = changed("comparisons/0/unit", "accuracy")
    for case in document["comparisons"][0]["cases"]:
        case["reported"] = 0.9
    parts = {"training": became(ONE, TWO) | {"notes": [note]}, "loading": became()}
    cases = beside.compare(recipe.parse(document, name="photos"), parts)[0]["cases"]
    assert page._cells(cases[0], "accuracy")[-1] == note
    assert compared(ONE, TWO)["cases"][0]["note"] == "", "times are those of the same work"


def test_the_table_has_one_process_on_all_cores_where_there_is_one():
    found = page._tabled(compared(ONE, TWO | {"over": {"all_cores": over(CORES, 2, 1.1, [0.9, 1.25])}}))
    assert found["head"][6] == "× one process on all cores"
    assert found["rows"][1][5:7] == ["1.80× (1.55 … 2.11)", "1.10× (0.90 … 1.25)"] and found["rows"][0][6] == "–"
    itself = page._tabled(compared(point(CORE, "serial", 10.0, over={"all_cores": over(CORE, 1, 1.0, [1.0, 1.0])})))
    assert itself["rows"][0][6] == "1.00×"
    assert all(len(cells) == len(found["head"]) for cells in found["rows"])
    assert "× one process on all cores" not in page._tabled(compared(ONE, TWO))["head"]
