"""What a recipe of a study may say, what is beside what, and memory that certainly is not enough."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from fanlight import recipes
from fanlight.errors import ConfigError
from fanlight.study.layouts import grid, room
from fanlight.study.projects import beside, page, recipe
from fanlight.train import checks

ROOT = Path(__file__).parents[3]
GOOD: dict[str, Any] = {
    "title": "Photos", "config": {"data": {"image_px": 64}},
    "parts": {
        "training": {"of": "layouts", "layouts": ["ddp"], "ranks": [2], "config": {"model": {"name": "resnet18"}}},
        "loading": {"of": "loading", "workers": [1, 2]},
    },
    "comparisons": [
        {"title": "Epochs", "unit": "s", "part": "training", "layout": "ddp", "why": "another  machine",
         "cases": [
             {"case": "one", "reported": 100, "layout": "serial", "cores": 1}, {"case": "two", "reported": 80, "ranks": 2},
         ]},
    ],
    "lacking": [{"what": "more", "why": "time", "from": "later"}],
}  # fmt: skip


def changed(path: str, value: Any) -> dict[str, Any]:
    """GOOD with one place of it changed; `...` takes it away."""
    made = copy.deepcopy(GOOD)
    *above, last = [int(part) if part.isdecimal() else part for part in path.split("/")]
    place: Any = made
    for part in above:
        place = place[part]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return made


def test_a_recipe_is_read():
    found = recipe.parse(GOOD, name="photos")
    training, loading = found.parts
    assert (training.layouts, training.ranks, training.precisions) == (("ddp",), (2,), ())
    assert (loading.of, loading.workers) == ("loading", (1, 2))
    config = found.config_of(training)
    assert (config.model.name, config.data.image_px) == ("resnet18", 64)
    one, two = found.comparisons[0].cases
    assert one.selects == {"part": "training", "layout": "serial", "cores": 1} and one.reported == 100
    assert (
        two.selects == {"part": "training", "layout": "ddp", "ranks": 2}
        and found.comparisons[0].why == "another machine"
    )


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("title", ..., "recipe photos: `title` is missing"),
        ("part", {}, "recipe photos: `part` is unknown. Near names: parts"),
        ("parts", [], "recipe photos: `parts` is missing"),
        ("parts", ["a"], "`parts` should be names with fields below, got list"),
        ("parts/training/of", "layout", "part training: `of` is 'layout'; choose layouts, loading"),
        ("parts/loading/ranks", [2], "part loading: `ranks` is of a part of layouts, and this one is of loading"),
        ("parts/training/ranks", ["two"], "part training, ranks: 'two' should be a whole number"),
        ("parts/training/ranks", 2, "part training, ranks: expected a list, got 2"),
        ("parts/loading/workers", [0], "part loading, workers: 0 should be a whole number above 0"),
        ("parts/a b", {"of": "loading"}, "part 'a b' should be named by letters, digits and -"),
        ("parts/training/config", {"model": {"nam": "x"}}, "recipe photos: config key 'model.nam' is unknown"),
        ("comparisons/0/unit", "m", "comparison 'Epochs': `unit` is 'm'; choose s, ratio, accuracy"),
        ("comparisons/0/part", "trainin", "'one': `part` is 'trainin'; choose training, loading"),
        ("comparisons/0/cases/1/reported", "80 s", "comparison 'Epochs', 'two', reported: '80 s' should be a number"),
        ("comparisons/0/cases/1/reported", False, "'two', reported: False should be a number"),
        ("comparisons/0/cases/1/reported", float("nan"), "'two', reported: nan should be a number above 0"),
        ("comparisons/0/cases/1/ranks", "2", "'two', ranks: '2' should be a whole number"),
        ("comparisons/0/cases/1/cores", "most", "'two', cores: 'most' should be a whole number"),
        ("comparisons/0/cases/1/device", "gpu", "'two', device: 'gpu'; choose cpu, cuda"),
        ("comparisons/0/cases/1/layout", 3, "'two', layout: 3 should be a word"),
        ("comparisons/0/cases/1/rank", 2, "comparison 'Epochs': `rank` is unknown. Near names: ranks"),
        ("comparisons/0/cases", [], "recipe photos, comparisons: `cases` is missing"),
        ("lacking/0/from", "", "recipe photos, lacking: `from` is missing"),
    ],
)
def test_a_mistake_names_its_place(path, value, message):
    with pytest.raises(ConfigError) as error:
        recipe.parse(changed(path, value), name="photos")
    assert message in str(error.value)


@pytest.mark.parametrize("name", recipes.studies())
def test_shipped_recipes_can_be_asked_for(name):
    """Known keys, values that can work, a first comment with the command, and a line in the docs."""
    path, is_study = recipes.find_study(name)
    found = recipe.read(path)
    assert is_study and found.theirs and found.comparisons
    for part in found.parts:
        checks.check(found.config_of(part))
        if part.of == "layouts":
            grid.points(cores=2, gpus=0, names=part.layouts, ranks=part.ranks, precisions=part.precisions, within=True)
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# fanlight study ") and f"--recipe {name}" in lines[0]
    comments = " ".join(line for line in lines if line.startswith("#"))
    assert "Not measured here yet" in comments or "results/" in comments
    assert f"`{name}`" in (ROOT / "docs" / "recipes.md").read_text()
    assert all(each.why for each in found.comparisons)


@pytest.mark.parametrize("name", recipes.studies())
def test_figures_of_the_recipes_are_numbers_of_their_texts(name):
    """YAML would read .5 as a number and 1:19 as another one; reported figures are plain floats above 0."""
    document = yaml.safe_load(recipes.find_study(name)[0].read_text())
    figures = [case["reported"] for each in document["comparisons"] for case in each["cases"] if "reported" in case]
    assert figures and all(isinstance(figure, int | float) and 0 < figure < 10_000 for figure in figures)


def point(
    name: str, layout: str, rate: float, *, ranks: int = 1, cores: int = 1, device: str = "cpu", **more: Any
) -> dict[str, Any]:
    """Of points.json, as far as a comparison looks."""
    return {
        "name": name, "layout": layout, "ranks": ranks, "cores": cores, "device": device, "precision": "fp32",
        "images_per_s": rate, "interval": [rate - 1, rate + 1], "speedup": rate / 10, "accuracy": 0.5, "accuracy_interval": None,
        "status": "measured", "reason": "", "over": {}, **more,
    }  # fmt: skip


def became(*points: dict[str, Any], cores: int = 2) -> dict[str, Any]:
    return {"of": "layouts", "status": "measured", "reason": "",
            "result": {"points": list(points), "machine": {"cores_usable": cores}}}  # fmt: skip


def compared(*points: dict[str, Any]) -> dict[str, Any]:
    parts = {"training": became(*points), "loading": became()}
    return beside.compare(recipe.parse(GOOD, name="photos"), parts)[0]


ONE, TWO = point("serial-1core-fp32", "serial", 10.0), point("ddp-2-fp32", "ddp", 18.0, ranks=2, cores=2)


def test_theirs_over_theirs_and_ours_over_ours():
    found = compared(ONE, TWO)
    one, two = found["cases"]
    assert (one["reported_ratio"], two["reported_ratio"]) == (1.0, 1.25)
    assert (one["ratio"], two["ratio"]) == (1.0, 1.8)
    assert found["causes"] == ["ddp-2-fp32: 18.0 images/s; its baseline was not measured."]
    said = beside.words([found])
    assert said == ["Epochs: theirs is 1.25× with two; here ddp-2-fp32 is 1.80× of serial-1core-fp32."]


def test_a_slow_down_is_called_one_on_both_sides():
    slow = point("ddp-2-fp32", "ddp", 9.0, ranks=2, cores=2)
    document = changed("comparisons/0/cases/1/reported", 200)
    found = beside.compare(recipe.parse(document, name="photos"), {"training": became(ONE, slow), "loading": became()})
    assert beside.words(found) == [
        "Epochs: theirs is 0.50× with two, a slow-down; here ddp-2-fp32 is 0.90× of serial-1core-fp32, a slow-down."
    ]


def test_a_device_is_not_compared_with_another():
    """One GPU beside two ranks on cores: cases without a device stay on the cores; several GPUs come before them."""
    gpu = point("serial-1gpu-fp32", "serial", 1000.0, device="cuda")
    assert [case["here"] for case in compared(ONE, TWO, gpu)["cases"]] == ["serial-1core-fp32", "ddp-2-fp32"]
    gpus = point("ddp-2gpus-fp32", "ddp", 1900.0, ranks=2, cores=2, device="cuda")
    found = compared(ONE, TWO, gpu, gpus)["cases"]
    assert [case["here"] for case in found] == ["serial-1gpu-fp32", "ddp-2gpus-fp32"] and found[1]["ratio"] == 1.9
    document = changed("comparisons/0/cases/1/device", "cuda")
    parts = {"training": became(ONE, gpus, gpu), "loading": became()}
    document["comparisons"][0]["cases"][0]["device"] = "cpu"
    mixed = beside.compare(recipe.parse(document, name="photos"), parts)[0]["cases"]
    assert [case["ratio"] for case in mixed] == [1.0, None]


def test_what_is_lacking_says_why():
    refused = TWO | {"status": "cannot run", "reason": "2 ranks take a core each, and 1 can be used"}
    found = compared(ONE, refused)["cases"][1]
    assert (found["status"], found["reason"]) == ("not measured", f"ddp-2-fp32: {refused['reason']}") and found[
        "rate"
    ] is None
    assert "no such point (layout ddp, ranks 2)" in compared(ONE)["cases"][1]["reason"]
    document = changed("comparisons/0/cases/1/lacks", "nobody built it")
    parts = {"training": became(ONE, TWO), "loading": became()}
    lacking = beside.compare(recipe.parse(document, name="photos"), parts)[0]["cases"][1]
    assert (lacking["status"], lacking["reason"], lacking["here"]) == ("lacking", "nobody built it", None)
    failed = {
        "training": {"of": "layouts", "status": "failed", "reason": "no room", "result": None},
        "loading": became(),
    }
    assert beside.compare(recipe.parse(GOOD, name="photos"), failed)[0]["cases"][0]["reason"] == "no room"


def test_losses_stand_beside_each_other_without_a_rate():
    document = changed("comparisons/0/unit", "loss")
    del document["comparisons"][0]["cases"][1]["reported"]
    lossy = TWO | {"loss": 2.5, "loss_interval": [2.25, 2.75]}
    parts = {"training": became(ONE | {"loss": 2.0}, lossy), "loading": became()}
    found = beside.compare(recipe.parse(document, name="photos"), parts)[0]
    one, two = found["cases"]
    assert (two["loss"], two["loss_interval"], two["rate"], two["ratio"]) == (2.5, [2.25, 2.75], None, None)
    assert found["causes"] == [] and beside.words([found]) == []
    assert page._head("loss")[3] == "loss here"
    assert page._cells(two, "loss")[3] == "2.500 (2.250 … 2.750)" and page._cells(one, "loss")[3] == "2.000"


def test_rows_of_loading():
    rows = [
        {
            "what": "flip",
            "engine": "Pool.imap",
            "workers": n,
            "images_per_s": 100.0 / n,
            "interval": [1, 2],
            "speedup": 0.5 / n,
        }
        for n in (1, 2)
    ]
    result = {"rows": rows, "machine": {"cores_usable": 2}}
    document = changed("comparisons/0", {
        "title": "Flips", "unit": "ratio", "part": "loading", "what": "flip", "engine": "Pool.imap",
        "cases": [{"case": "two", "reported": 0.002, "workers": 2}, {"case": "most"}, {"case": "ten", "workers": 10},
                  {"case": "none", "engine": "dask"}],
    })  # fmt: skip
    parts = {"training": became(), "loading": {"of": "loading", "status": "measured", "reason": "", "result": result}}
    two, most, ten, none = (found := beside.compare(recipe.parse(document, name="photos"), parts)[0])["cases"]
    assert two["here"] == most["here"] == "flip, Pool.imap, 2 workers" and (two["reported_ratio"], two["ratio"]) == (
        0.002,
        0.25,
    )
    assert ten["reason"] == "10 workers take a core each, and 2 can be used"
    assert none["reason"] == "dask for flip was not measured"
    assert "here flip, Pool.imap, 2 workers is 0.25× of one core, a slow-down" in beside.words([found])[0]


def test_memory_that_cannot_be_enough_is_a_reason(monkeypatch):
    """Copies by rank on one machine, one for all where ranks divide the model."""
    points = [
        grid.Point("serial", 1, "fp32", "cpu", 1, 1), grid.Point("ddp", 4, "fp32", "cpu", 1, 4),
        grid.Point("fsdp", 4, "fp32", "cpu", 1, 4), grid.Point("ddp", 8, "fp32", "cpu", 1, 8, "too many"),
    ]  # fmt: skip
    monkeypatch.setattr(room, "held", lambda about: 3 * 10**9)
    monkeypatch.setattr(room.machine, "memory_available", lambda: 8 * 10**9)
    found = room.checked(points, about=None)
    assert [each.reason for each in found] == [
        "", "weights, gradients and the optimizer's state take 12.0 GB at least, and this machine has 8.0 GB free", "", "too many"
    ]  # fmt: skip
