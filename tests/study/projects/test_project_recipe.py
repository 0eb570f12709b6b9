"""What a recipe of a study may say, what is beside what, and memory that certainly is not enough."""

from pathlib import Path

import pytest
import torch
import yaml

from fanlight import recipes
from fanlight.errors import ConfigError
from fanlight.study.layouts import grid, room
from fanlight.study.projects import beside, headline, page, recipe, run
from fanlight.train import checks
from study.projects.made import GOOD, ONE, TWO, became, changed, compared, point, row

ROOT = Path(__file__).parents[3]


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
            formats = run._formats(part.precisions)
            grid.points(cores=2, gpus=0, names=part.layouts, ranks=part.ranks, precisions=formats, within=True)
    lines = path.read_text().splitlines()
    assert lines[0].startswith("# fanlight study ") and f"--recipe {name}" in lines[0]
    comments = " ".join(line for line in lines if line.startswith("#"))
    assert "Not measured" not in comments, "what was measured stands in results/, where it cannot go stale"
    docs = (ROOT / "docs" / "recipes.md").read_text()
    assert f"`{name}`" in docs and "results/reference-<recipe>_" in docs
    assert list((ROOT / "results").glob(f"reference-{name}_*.md"))
    assert all(each.why for each in found.comparisons)


@pytest.mark.parametrize("name", recipes.studies())
def test_figures_of_the_recipes_are_numbers_of_their_texts(name):
    """YAML would read .5 as a number and 1:19 as another one; reported figures are plain floats above 0."""
    document = yaml.safe_load(recipes.find_study(name)[0].read_text())
    figures = [case["reported"] for each in document["comparisons"] for case in each["cases"] if "reported" in case]
    assert figures and all(isinstance(figure, int | float) and 0 < figure < 10_000 for figure in figures)


def test_theirs_over_theirs_and_ours_over_ours():
    found = compared(ONE, TWO)
    one, two = found["cases"]
    assert (one["reported_ratio"], two["reported_ratio"]) == (1.0, 1.25)
    assert (one["ratio"], two["ratio"]) == (1.0, 1.8)
    assert two["ratio_interval"] == [17 / 11, 19 / 9], "the widest that both rates allow"
    assert found["causes"] == ["ddp-2-fp32: 18.0 images/s; its baseline was not measured."]


def test_a_ratio_is_of_paired_rounds_where_the_study_has_it():
    paired = {"point": "serial-1core-fp32", "cores": 1, "value": 1.7, "interval": [1.6, 1.9], "n": 3}
    two = compared(ONE, TWO | {"over": {"one_core": paired}})["cases"][1]
    assert (two["ratio"], two["ratio_interval"]) == (1.7, [1.6, 1.9])


def test_a_case_that_leaves_something_open_is_beside_the_fastest():
    four = point("ddp-4-fp32", "ddp", 30.0, ranks=4, cores=4)
    document = changed("comparisons/0/cases/1/ranks", ...)
    parts = {"training": became(ONE, TWO, four, cores=4), "loading": became()}
    found = beside.compare(recipe.parse(document, name="photos"), parts)[0]["cases"][1]
    assert found["here"] == "ddp-4-fp32"


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
    assert found["causes"] == [] and headline.words([found]) == []
    assert page._head("loss")[3] == "loss here"
    assert page._cells(two, "loss")[3] == "2.500 (2.250 … 2.750)" and page._cells(one, "loss")[3] == "2.000"


def test_rows_of_loading():
    rows = [row("flip", 100.0 / n, workers=n, speedup=0.5 / n) for n in (1, 2)]
    result = {"rows": rows, "machine": {"cores_usable": 2}}
    document = changed("comparisons/0", {
        "title": "Flips", "unit": "ratio", "part": "loading", "what": "flip", "engine": "Pool.imap",
        "cases": [{"case": "two", "reported": 0.002, "workers": 2}, {"case": "most"}, {"case": "ten", "workers": 10},
                  {"case": "none", "engine": "dask"}],
    })  # fmt: skip
    parts = {"training": became(), "loading": {"of": "loading", "status": "measured", "reason": "", "result": result}}
    two, most, ten, none = beside.compare(recipe.parse(document, name="photos"), parts)[0]["cases"]
    assert two["here"] == most["here"] == "flip, Pool.imap, 2 workers" and (two["reported_ratio"], two["ratio"]) == (
        0.002,
        0.25,
    )
    assert ten["reason"] == "10 workers take a core each, and 2 can be used"
    assert none["reason"] == "dask for flip was not measured"
    assert two["ratio_interval"] == [0.2, 0.3]


def test_networks_without_times_of_theirs_have_rows_all_the_same():
    """Five networks on 1 to 4 ranks were asked for; what is not in a table is not seen."""
    found = recipe.read(recipes.find_study("sign-language")[0])
    timed = {case.selects["part"]: set() for each in found.comparisons for case in each.cases if each.unit == "s"}
    for each in found.comparisons:
        for case in each.cases:
            if each.unit == "s" and case.selects["layout"] == "ddp":
                timed[case.selects["part"]].add(case.selects["ranks"])
    assert timed == {part.name: {2, 3, 4} for part in found.parts} and len(timed) == 5


def test_mixed_is_the_short_format_of_the_gpu(monkeypatch):
    """bf16 from Ampere on and on CPUs, fp16 on GPUs before it; given precisions are never changed."""
    assert run._formats(("fp32", "mixed")) == ("fp32", "bf16")
    monkeypatch.setattr(run.devices, "gpus_visible", lambda: 1)
    for capability, word in ((7, "fp16"), (8, "bf16"), (9, "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _, major=capability: (major, 0))
        assert run._formats(("fp32", "mixed", word)) == ("fp32", word)


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


def test_a_gpus_memory_is_asked_for_without_taking_of_it(monkeypatch):
    monkeypatch.setattr(room, "held", lambda about: 3 * 10**9)
    monkeypatch.setattr(room.machine, "memory_available", lambda: 10**12)
    monkeypatch.setattr(torch.cuda, "mem_get_info", None)  # which makes a context
    device = type("Device", (), {"total_memory": 2 * 10**9})()
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda number: device)
    points = [grid.Point("serial", 1, "fp32", "cuda", 2, 1), grid.Point("fsdp", 2, "fp32", "cuda", 1, 2)]
    assert [each.reason for each in room.checked(points, about=None)] == [
        "weights, gradients and the optimizer's state take 3.0 GB at least, and a GPU has 2.0 GB", ""
    ]  # fmt: skip
