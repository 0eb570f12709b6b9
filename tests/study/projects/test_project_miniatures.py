"""Every shipped recipe of a study, from the command to its report, on images of a few pixels, and what this machine lacks for it
named. The network is a small one for all; that of a study of layouts and of loading are tested by themselves."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from fanlight import recipes
from fanlight.errors import Stopped
from fanlight.models import zoo
from fanlight.study.layouts import estimate, page, runner
from fanlight.study.layouts import study as layouts
from fanlight.study.loading import run as loading
from fanlight.study.projects import run
from parallel.kept import Kept
from study import reading
from train import colours as tiny
from train import sentences

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")

CLASSES = ("frost", "hail", "rain", "snow")
SMALL = ("--model", "scratch-cnn", "--image-size", 12, "--batch-size", 8, "--epochs", 1, "--rounds", 1, "--limit", 16,
         "--engines", "threads")  # fmt: skip
# What a machine of one core without a GPU cannot measure, of each recipe: some words of each reason.
LACKS = {
    "weather": ("4 ranks take a core each, and 1 can be used", "16 workers take a core each", "0 can be used",
                "dask for decode was not measured"),
    "sign-language": ("3 ranks take a core each", "4 ranks take a core each"),
    "scratch-cnn": ("kernels of our own belong to `fanlight scratch`", "2 ranks take a core each"),
    "lung-colon": ("28 ranks take a core each", "no GPU is visible", "no such point"),
    "captioning": ("DDP of one rank is the serial run here", "20 workers take a core each", "3 ranks take a core each"),
}  # fmt: skip


CAPTIONER = {"--model": "small-cnn+lstm8", "--image-size": 16}  # what SMALL is where images have sentences
measure = loading.study
DRAWN, draw = "scratch-cnn", page._figures  # the recipe whose figures are drawn, and how


@pytest.fixture(scope="module")
def kept_loading(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A study of loading that is measured once: recipes that ask for the same, of images that are the same, get a copy."""
    made: dict[str, Path] = {}

    def study(data: str, *, out: Path, command: str, **asked: Any) -> dict[str, Any]:
        key = json.dumps({**asked, "images": sorted(path.parent.name for path in Path(data).glob("*/*"))})
        if key not in made:
            made[key] = tmp_path_factory.mktemp("loading") / "study"
            measure(data, out=made[key], command=command, block_s=0.0, **asked)
        shutil.copytree(made[key], out)
        document = json.loads((out / "study.json").read_text()) | {"study": str(out), "command": command}
        (out / "study.json").write_text(json.dumps(document))
        return document

    return study


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch, kept_pools: Any, kept_loading: Any) -> None:
    """A machine of one core and no network, on which everything is measured once, and shortly."""
    monkeypatch.setattr(runner, "Pool", lambda ranks, **_: Kept(kept_pools(ranks)))
    monkeypatch.setattr(layouts, "BLOCK_S", 0.01)
    monkeypatch.setattr(layouts, "REPEATS", 1)
    monkeypatch.setattr(layouts.machine, "cores_usable", lambda: 1)
    monkeypatch.setattr(layouts.devices, "gpus_visible", lambda: 0)
    monkeypatch.setattr(
        estimate, "seconds", lambda points, *_, **__: {point.name: estimate.Guess(1.0, 1.0) for point in points}
    )
    monkeypatch.setattr(loading, "study", kept_loading)
    monkeypatch.setattr(loading, "_busy", lambda: 0.0)
    monkeypatch.setattr(zoo, "_published", lambda *_, **__: "no network")
    monkeypatch.setattr(page, "_figures", lambda found: {})  # drawing takes seconds


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    return tiny.make(tmp_path / "photos", per_class=6, px=16, classes=CLASSES)


def test_every_shipped_recipe_has_a_miniature() -> None:
    assert LACKS.keys() == set(recipes.studies())


@pytest.mark.parametrize("name", LACKS)
def test_a_recipe_from_the_command_to_its_report(fanlight, photos, own_place, quick, monkeypatch, name, tmp_path):
    if name == DRAWN:
        monkeypatch.setattr(page, "_figures", draw)
    data, words = photos, list(SMALL)
    if name == "captioning":
        data = sentences.make(tmp_path / "said", images=24)
        for flag, value in CAPTIONER.items():
            words[words.index(flag) + 1] = value
    answer = fanlight("study", data, "--recipe", name, *words, "--out", "s", "--json")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    place = own_place / "s"
    assert json.loads((place / "project.json").read_text()) == document
    assert {part["name"]: part["reason"] for part in document["parts"]} == {
        part["name"]: "" for part in document["parts"]
    }, "every part was measured"
    cases = [case for each in document["comparisons"] for case in each["cases"]]
    assert all((case["status"] == "measured") == bool(case["here"]) != bool(case["reason"]) for case in cases)
    reasons = " ".join(case["reason"] for case in cases)
    assert all(words in reasons for words in LACKS[name]), reasons
    for point in document["points"]:
        assert point["status"] == "measured" or point["reason"], point["name"]
    check_reports(place, document, cases)
    check_figures(document)
    if name == "sign-language":
        scores = [case for case in cases if case["accuracy"] is not None]
        assert any("accuracies say nothing" in case["note"] for case in scores)
        notes = [note for part in document["parts"] for note in part["notes"]]
        assert len(notes) == 5 and "accuracies say nothing" in notes[0]
    assert not list(place.glob("parts/*.safetensors")), "drawn weights are thrown away"
    if name == DRAWN:
        again = json.loads(fanlight("study", "--resume", "s", "--json").out)
        took = [[part["seconds"] for part in each["parts"]] for each in (document, again)]
        assert took[0] == took[1] and min(took[0]) > 0, "what was measured before took what it took then"


def check_reports(place: Path, document: dict[str, Any], cases: list[dict[str, Any]]) -> None:
    """Page and Markdown say all of it, and the parts' reports that they name are there."""
    html, text = reading.read((place / "report.html").read_text()), (place / "report.md").read_text()
    words = html.words
    for case in cases:
        assert case["case"] in words and (not case["reason"] or case["reason"] in words)
    for each in document["comparisons"]:
        assert each["why"] and each["why"] in words and f"## {each['title']}" in text
    for each in document["lacking"]:
        assert each["from"] in words
    assert html.links == [f"{part['study']}/report.html" for part in document["parts"]]
    assert all((place / link).exists() for link in html.links)
    assert len(html.sources) - len(html.links) == (2 if document["recipe"] == DRAWN else 0)


def check_figures(document: dict[str, Any]) -> None:
    """Ratios are over the first case with a figure: theirs over theirs, and of ours none that differs in device."""
    for each in document["comparisons"]:
        measured = [case for case in each["cases"] if case["rate"] is not None]
        if each["unit"] == "s":
            first = next((case for case in each["cases"] if case["reported"] is not None), None)
            assert first is None or first["reported_ratio"] == 1.0
            if measured:
                assert measured[0]["ratio"] == 1.0
            for case in [each for each in measured if each["kind"] == measured[0]["kind"]]:
                assert case["ratio"] == pytest.approx(case["rate"] / measured[0]["rate"])
        if each["unit"] == "accuracy":
            assert all(0 <= case["accuracy"] <= 1 for case in each["cases"] if case["status"] == "measured")
        if each["unit"] == "loss":
            losses = [case["loss"] for case in each["cases"] if case["status"] == "measured"]
            assert losses and all(loss > 0 for loss in losses)


def test_ranks_of_the_command_are_measured_taking_turns_and_the_rest_goes_on(
    fanlight, photos, own_place, quick, monkeypatch
):
    """A study that was stopped in its second part measures that part, and not the first again."""
    whole = layouts.study

    def stops(*_: Any, **__: Any) -> None:
        raise Stopped("stopped; continue with: fanlight study photos --resume s/parts/training")

    monkeypatch.setattr(layouts, "study", stops)
    monkeypatch.setattr(loading, "study", no_rows)
    answer = fanlight("study", photos, "--recipe", "weather", *SMALL, "--ranks", 2, "--layouts", "ddp", "--out", "s")
    assert answer.code == 75 and answer.err.splitlines()[-1] == "Stopped; continue with: fanlight study --resume s"
    before = (own_place / "s/parts/loading/study.json").stat().st_mtime_ns
    monkeypatch.setattr(layouts, "study", whole)
    answer = fanlight("study", "--resume", "s", "--json")
    assert answer.code == 0, answer.err
    document = json.loads(answer.out)
    points = {point["name"]: point for point in document["points"]}
    assert [name for name, point in points.items() if point["n"]] == ["serial-1core-fp32", "ddp-2-fp32"]
    assert "oversubscribed" in points["ddp-2-fp32"]["flags"]
    assert (own_place / "s/parts/loading/study.json").stat().st_mtime_ns == before
    case = next(case for each in document["comparisons"] for case in each["cases"] if case["case"] == "DDP, 2 ranks")
    assert case["here"] == "ddp-2-fp32" and case["ratio"] == pytest.approx(
        points["ddp-2-fp32"]["images_per_s"] / points["serial-1core-fp32"]["images_per_s"]
    )
    check_again(fanlight, own_place, document)


def no_rows(data: str, *, out: Path, **_: Any) -> dict[str, Any]:
    """A study of loading that has measured nothing, and is done."""
    out.mkdir()
    about = {"cores_usable": 1, "cpu": "a processor"}
    made = {"rows": [], "machine": about, "images": 1, "versions": {}, "verdict": "Nothing.", "rounds": 1}
    (out / "study.json").write_text(json.dumps(made))
    return made


def check_again(fanlight: Any, own_place: Path, document: dict[str, Any]) -> None:
    """What is finished is told again without a run, and its report can be made again."""
    probes = {path: path.stat().st_mtime_ns for path in own_place.glob("s/parts/training/runs/*/probe.json")}
    assert probes
    again = json.loads(fanlight("study", "--resume", "s", "--json").out)
    assert again["points"] == document["points"] and again["comparisons"] == document["comparisons"]
    assert {path: path.stat().st_mtime_ns for path in probes} == probes
    before = (own_place / "s/report.html").read_text()
    (own_place / "s/report.html").unlink()
    assert fanlight("report", "s").code == 0
    assert (own_place / "s/report.html").read_text() != "" and len(before) == pytest.approx(
        len((own_place / "s/report.html").read_text()), rel=0.01
    )
    shutil.rmtree(own_place / "s")


def test_a_part_that_fails_is_a_row_with_its_reason(fanlight, photos, own_place, quick, monkeypatch):
    """A network that takes no images of this size: the study of loading stands, and the other part says why not."""
    monkeypatch.setattr(loading, "study", no_rows)
    words = [*SMALL, "--out", "s", "--json"]
    words[words.index("--image-size") + 1] = 6
    answer = fanlight("study", photos, "--recipe", "weather", *words)
    assert answer.code == 0, answer.err
    parts = {part["name"]: part for part in json.loads(answer.out)["parts"]}
    assert parts["loading"]["status"] == "measured" and parts["training"]["status"] == "failed"
    assert "scratch-cnn takes images of 8 px and more" in parts["training"]["reason"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("photos", "--recipe", "wether"), "--recipe 'wether' does not exist; there are captioning, lung-colon"),
        (("--recipe", "weather"), "say which images: fanlight study photos/ --recipe weather"),
        (("photos", "--recipe", "weather", "--of", "loading"), "--of loading: a recipe says itself what is studied"),
        (("photos", "--recipe", "weather", "--weak"), "--weak is of one study, and a recipe has parts"),
        (("photos", "--recipe", "weather", "--set", "train.epoch=1"), "config key 'train.epoch' is unknown"),
        (
            ("photos", "--recipe", "weather", "--limit", "0"),
            "--limit 0: a whole number from 1 to 1,000,000,000, or leave it out",
        ),
        (("photos", "--recipe", "weather", "--layouts", "ddb"), "--layouts 'ddb' does not exist; choose"),
        (("photos", "--recipe", "weather", "--engines", "thread"), "--engines 'thread' is unknown; choose serial"),
        (("photos", "--recipe", "weather", "--workers", "0"), "--workers 0: numbers from 1 to 1024"),
        (("photos", "--recipe", "weather", "--model", "scratch-cn"), "model 'scratch-cn' is unknown. Near names:"),
        (("photos", "--recipe", "none.yaml"), "cannot read config none.yaml"),
        (("photos", "--of", "loading", "--recipe", "fast"), "--recipe is of another study: use it with --of layouts"),
    ],
)
def test_what_no_recipe_can_be(fanlight, own_place, words, message):
    answer = fanlight("study", *words)
    assert answer.code == 2 and answer.err.startswith(f"Error: {message}"), answer.err
    assert not (own_place / "runs").exists()


def test_images_that_are_not_there_begin_nothing(fanlight, own_place):
    answer = fanlight("study", "nowhere", "--recipe", "weather", "--out", "s")
    assert answer.code in (2, 3) and "nowhere" in answer.err and not (own_place / "s").exists()


def test_a_recipe_of_training_gives_its_config_to_the_usual_grid(fanlight, photos, monkeypatch):
    seen: list[Any] = []
    monkeypatch.setattr(layouts, "study", lambda config, *_, **__: seen.append(config) or {})
    assert fanlight("study", photos, "--recipe", "fast", "--epochs", 3, "--json").code == 0
    assert (seen[0].model.name, seen[0].data.image_px, seen[0].train.epochs) == ("small-cnn", 48, 3)


def test_train_says_where_a_recipe_of_a_study_belongs(fanlight, photos):
    answer = fanlight("train", photos, "--recipe", "weather")
    assert answer.code == 2 and answer.err.strip().endswith("of one training: fanlight study DATA --recipe weather")


def test_a_folder_without_a_plan_cannot_go_on(own_place):
    (own_place / "s").mkdir()
    (own_place / "s" / run.PLAN).write_text("{}")
    with pytest.raises(run.RunError, match=r"s has no readable recipe.json; begin anew"):
        run.resume(own_place / "s", "", rounds=None, time_limit_s=None, command="")
