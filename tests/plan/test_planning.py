"""`--layout auto`: what a plan decides of a run, and where it is refused."""

from types import SimpleNamespace

import pytest

from fanlight import cli_plan
from fanlight import config as configs
from fanlight.config import Config
from fanlight.errors import ConfigError
from fanlight.plan import choice, cluster, planning
from fanlight.train import prepare, resolve
from plan import jobs
from plan.made import chain
from plan.test_choose import candidate
from plan.test_measure import made
from train import sentences

pytest_plugins = ["train.fixtures"]

AUTO = Config().with_values({"execution.layout": "auto", "execution.device": "cpu"})


def decided(monkeypatch, config: Config, *found) -> Config:
    def foretold(config, wanted):
        return None, [each for each in found if not wanted.only or each.ranks in wanted.ranks]

    monkeypatch.setattr(planning, "foretold", foretold)
    return cli_plan.laid_out(config, resume=None)


def serial(rate: float, **more):
    from dataclasses import replace

    return replace(candidate("serial", rate, **more), ranks=1)


def test_the_fastest_layout_is_taken_with_its_ranks_and_format(monkeypatch):
    found = decided(monkeypatch, AUTO, serial(100, source="measured"), candidate("ddp", 120, source="measured"))
    assert (found.execution.layout, found.execution.ranks, found.train.precision) == ("ddp", 2, "fp32")


def test_another_layout_must_be_clearly_faster(monkeypatch):
    found = decided(monkeypatch, AUTO, serial(100, source="measured"), candidate("ddp", 104, source="measured"))
    assert (found.execution.layout, found.execution.ranks) == ("serial", 1)


def test_ranks_that_are_asked_for_stay(monkeypatch):
    config = AUTO.with_value("execution.ranks", 2)
    found = decided(monkeypatch, config, serial(100, source="measured"), candidate("ddp", 90, source="measured"))
    assert (found.execution.layout, found.execution.ranks) == ("ddp", 2)


def test_a_pipeline_brings_its_microbatches(monkeypatch):
    from dataclasses import replace

    pipe = replace(candidate("pipeline", 200, source="measured"), microbatches=8)
    assert decided(monkeypatch, AUTO, serial(100), pipe).train.microbatches == 8
    mine = AUTO.with_value("train.microbatches", 2)
    assert decided(monkeypatch, mine, serial(100), pipe).train.microbatches == 2


def test_a_batch_that_was_left_open_is_the_plans(monkeypatch):
    """Training then has a batch that was stated: it measures none."""
    from dataclasses import replace

    found = [replace(serial(100), batch=16), replace(candidate("ddp", 200), batch=64, batch_reason="knee: so it is")]
    config = decided(monkeypatch, AUTO.with_value("train.batch_size", "auto"), *found)
    assert (config.execution.layout, config.train.batch_size) == ("ddp", 64)
    choices = resolve.Choices(config)
    choices.take("train.batch_size", 8, "the default")
    assert not choices.is_open("train.batch_size") and choices.config.train.batch_size == 64
    assert decided(monkeypatch, AUTO, *found).train.batch_size is None, "nobody asked for another"
    mine = AUTO.with_values({"train.batch_size": "auto"}).with_value("train.batch_size", 24)
    assert decided(monkeypatch, mine, *found).train.batch_size == 24


def test_layouts_of_a_compiled_run_are_said_to_be_compared_uncompiled(monkeypatch, capsys):
    found = serial(100), candidate("ddp", 200)
    assert decided(monkeypatch, AUTO.with_value("execution.compile", True), *found).execution.compile is True
    told = capsys.readouterr().err
    assert (
        "layouts are compared uncompiled" in told and "try --compile with --layout serial and with --layout ddp" in told
    )
    decided(monkeypatch, AUTO, *found)
    assert not capsys.readouterr().err


def test_a_frozen_network_whose_features_are_kept_is_said_to_be_compared_whole(monkeypatch, capsys):
    frozen = AUTO.with_values({"model.freeze": True, "augment.off": True})
    decided(monkeypatch, frozen, serial(100))
    told = capsys.readouterr().err
    assert "with the whole network computed at every look" in told and "Give --layout serial" in told
    for key, value in (("execution.cache_features", False), ("augment.off", False)):
        decided(monkeypatch, frozen.with_value(key, value), serial(100))
        assert "at every look" not in capsys.readouterr().err, key


def test_a_plans_reasons_are_kept(monkeypatch, colours, tmp_path):
    """Of what was left open; config.yaml has none, and says what it said."""
    from dataclasses import replace

    pipe = replace(
        candidate("pipeline", 200, source="measured", turns_s=(16 / 200,) * 3), microbatches=8, batch=16,
        batch_reason="knee: so it is",
    )  # fmt: skip
    found = [replace(serial(100, source="measured", turns_s=(8 / 100,) * 3), batch=8), pipe, candidate("ddp", 90)]
    config = decided(monkeypatch, AUTO.with_value("train.batch_size", "auto"), *found)
    assert config.planned == {
        "execution.layout": "planned: 200 images/s measured: pipeline on 2 rank(s) in fp32 at batch 16 2.00× of serial on 1 "
        "rank(s) in fp32 at batch 8 (n = 3, quartiles 2.00 … 2.00); of its step, waiting 3%; batch 16 by knee: so it is; "
        "compared with serial on 1 rank(s) in fp32 100 images/s at batch 8 measured (3 turns each) and 1 that was only simulated",
        "execution.ranks": "planned with the layout", "train.precision": "planned with the layout",
        "train.microbatches": "planned: as many as layout pipeline is fastest with",
        "train.batch_size": "planned, of simulated rates; knee: so it is",
    }  # fmt: skip
    stated = {"execution.ranks": 2, "train.precision": "fp32", "train.microbatches": 2, "train.batch_size": 8}
    assert list(decided(monkeypatch, AUTO.with_values(stated), *found).planned) == ["execution.layout"]
    small = {"data.path": str(colours), "model.name": "small-resnet", "execution.pack_dir": str(tmp_path / "packs")}
    run = prepare.prepare(config.with_values(small), out=tmp_path / "run", command="")
    resolved = configs.read_document(run / "resolved.yaml")
    assert config.planned.items() <= resolved["reasons"].items()
    assert resolved["train"]["batch_size"] == 16 and "by the square root of batch 16" in resolved["reasons"]["optim.lr"]
    assert "planned" not in (run / "config.yaml").read_text()
    again = Config().with_values({**small, "train.batch_size": "auto"})
    prepare.take_changes(run, again)  # as it was asked for
    with pytest.raises(ConfigError, match=r"train.batch_size is 16 .* cannot become 32"):
        prepare.take_changes(run, again.with_value("train.batch_size", 32))


def test_what_a_choice_was_made_among():
    assert choice.compared(serial(9), [serial(9)]) == "nothing else fits"
    others = [candidate("ddp", 8), candidate("fsdp", 7), candidate("tensor", 0, fits=False)]
    assert choice.compared(serial(9), [serial(9), *others]) == "compared with 2 that were only simulated"


def test_a_product_with_a_pipeline_brings_its_microbatches(monkeypatch):
    from dataclasses import replace

    found = [replace(candidate("replicate=2,pipe=2", 300, source="measured"), ranks=4, microbatches=8)]
    config = decided(monkeypatch, AUTO.with_value("execution.ranks", 4), *found)
    assert (config.execution.layout, config.train.microbatches) == ("replicate=2,pipe=2", 8)


def test_a_network_that_cannot_be_counted_is_named(monkeypatch):
    def count(*_, **__):
        raise RuntimeError("Tensor.item() cannot be called on meta tensors\nat some place")

    monkeypatch.setattr(planning.counting, "count", count)
    config = Config().with_values({"model.name": "small-resnet", "data.image_px": 32})
    with pytest.raises(ConfigError, match=r"small-resnet cannot be planned: .* meta tensors\); name a --layout"):
        planning.network_of(config, classes=3)


def test_what_measuring_holds_is_no_memory_that_a_run_lacks(monkeypatch):
    """Ranks that calibrated are still there while layouts are predicted: a plan that measures says what a second one says."""
    free = [8e9]

    def calibrate(*_, **__):
        free[0] = 1e9
        return made()

    monkeypatch.setattr(planning.machine, "memory_available", lambda: free[0])
    monkeypatch.setattr(planning.measure, "calibrate", calibrate)
    monkeypatch.setattr(planning, "network_of", lambda *_, **__: (chain(2), lambda ranks: "", ""))
    config = jobs.config(model__name="small-resnet", train__batch_size=16, execution__device="cpu")
    manifest = SimpleNamespace(classes=["a", "b"], rows=lambda split: range(1000))
    wanted = planning.Wanted(confirm=False)
    about, found = planning._foretold(config, manifest, wanted, None, asked=config, pools=None)
    assert about.cluster.device.memory_bytes == 8e9 and found[0].fits


def test_auto_is_a_wish_and_an_open_layout_is_none(tmp_path):
    """A run's config.yaml names every key: one that left the layout open leaves it open again, without a plan."""
    for asked in (Config(), Config().with_value("execution.layout", None), AUTO):
        configs.write(tmp_path / "config.yaml", asked)
        again = configs.read(tmp_path / "config.yaml")
        assert again.execution.layout is None and again.execution.layout_auto == (asked is AUTO)
        if asked is not AUTO:
            assert cli_plan.laid_out(again, resume="auto") is again
    named = AUTO.with_value("execution.layout", "ddp")
    assert cli_plan.laid_out(named, resume=None) is named, "a layout that is named counts"


@pytest.mark.parametrize("words", [["plan"], ["train", "--layout", "auto", "--device", "cpu"]])
def test_captioners_are_refused_with_a_reason_and_a_way_out(fanlight, tmp_path, words):
    data = sentences.make(tmp_path / "said")
    answer = fanlight(words[0], data, *words[1:])
    assert answer.code == 2 and "Traceback" not in answer.err
    assert (
        "captioners are not planned" in answer.err
        and f"name a {'--layout' if words[0] == 'train' else 'layout'}" in answer.err
    )


@pytest.mark.parametrize(("gain", "formats"), [(0.4, ["fp32"]), (1.0, ["fp32", "bf16"]), (3.0, ["fp32", "bf16"])])
def test_a_format_that_is_emulated_is_not_measured(monkeypatch, gain, formats):
    monkeypatch.setattr(planning.precision, "cpu_gain", lambda: gain)
    assert planning._precisions(None, None, here="cpu") == formats
    assert planning._precisions("bf16", None, here="cpu") == ["bf16"], "unless it is asked for"
    assert planning._precisions(None, None, here="cuda") == ["fp32", "bf16"]
    with pytest.raises(ConfigError, match="fp16"):
        planning._precisions("fp16", None, here="cpu")


def test_a_described_devices_formats_are_those_that_its_file_tells(monkeypatch):
    """How fast this machine is in them says nothing of it."""
    monkeypatch.setattr(planning.precision, "cpu_gain", lambda: pytest.fail("measured for nothing"))
    text = "nodes: 1\ndevice: {kind: KIND, count: 1, achieved: {TOLD}}\nlinks: {}\n"

    def formats(kind: str, told: str, asked: str | None = None) -> list[str]:
        machines = cluster.parse(text.replace("KIND", kind).replace("TOLD", told), where="lab.yaml")
        return planning._precisions(asked, machines, here="cpu")

    assert formats("cpu", "bf16: 2 TFLOP/s, fp32: 1 TFLOP/s") == ["bf16", "fp32"]
    assert formats("cpu", "bf16: 2 TFLOP/s, fp16: 1 TFLOP/s") == ["bf16"], "CPUs do not train in fp16"
    assert formats("cuda", "fp16: 1 TFLOP/s", asked="fp16") == ["fp16"], "GPUs do, whatever is here"
    with pytest.raises(ConfigError, match=r"lab.yaml: device.achieved says fp16 alone.*add fp32 or bf16"):
        formats("cpu", "fp16: 1 TFLOP/s")
    with pytest.raises(
        ConfigError, match=r"--precision bf16: lab.yaml does not say .* but in fp16, fp32; use one of these"
    ):
        formats("cuda", "fp32: 1 TFLOP/s, fp16: 1 TFLOP/s", asked="bf16")
    measured = cluster.parse("nodes: 1\ndevice: {kind: cuda, count: 1, speed: 9}\nlinks: {}\n", where="c")
    with pytest.raises(ConfigError, match="CPUs do not train in"):
        planning._precisions("fp16", measured, here="cpu")


def test_wishes_that_a_plan_has_no_use_for_are_named(monkeypatch):
    said = []
    monkeypatch.setattr(planning.console, "warn", lambda what, **_: said.append(what))
    planning._warn_of_unplanned(Config())
    planning._warn_of_unplanned(Config().with_values({"execution.autotune": True, "execution.ranks": 1}))
    assert not said
    planning._warn_of_unplanned(Config().with_values({"execution.layout": "ddp", "execution.ranks": 3}))
    assert said == ["execution.layout ddp, execution.ranks 3 left out of the plan"]


def test_a_time_limit_leaves_time_to_plan(monkeypatch):
    """Else it would be over before anything trains."""
    config = AUTO.with_value("train.time_limit_s", "90s")
    with pytest.raises(
        ConfigError, match=r"--layout auto beside a --time-limit of 1 min 30 s: .* two minutes of it; name a"
    ):
        decided(monkeypatch, config, serial(100))
    assert decided(monkeypatch, AUTO.with_value("train.time_limit_s", "2m"), serial(100)).execution.layout == "serial"


def test_a_refusal_that_many_share_is_said_once(monkeypatch):
    from dataclasses import replace

    said = []
    monkeypatch.setattr(planning.console, "say", said.append)
    names = ["fsdp", "tensor", "pipeline", "hsdp"]
    why = {name: f"model.freeze does not go with layout {name}: use ddp" for name in names} | {
        "hsdp": "layout hsdp: 4 ranks"
    }
    found = [replace(candidate(name, 0, fits=False), reason=why[name]) for name in names]
    planning._say([serial(9), *found], serial(9), "it is", cluster.read("dgx-1"))
    assert said[-2:] == [
        "  fsdp; tensor; pipeline on 2: model.freeze does not go with these: use ddp",
        "  hsdp on 2: layout hsdp: 4 ranks",
    ]


def test_gpus_are_planned_where_they_are_and_no_more_ranks_than_they_are(monkeypatch):
    monkeypatch.setattr(planning.devices, "gpus_visible", lambda: 2)
    assert planning.measured_on(Config(), None) == "cuda"
    assert planning.measured_on(Config().with_value("execution.device", "cpu"), None) == "cpu"
    assert planning.measured_on(Config(), cluster.read("hosts-1gbit")) == "cpu", "of the kind that is planned"
    planning.check_places(2, device="cuda")
    with pytest.raises(ConfigError, match=r"--ranks asks for 4, and this machine has 2 GPU\(s\).*--cluster"):
        planning.check_places(4, device="cuda")


@pytest.mark.parametrize("config", [Config(), Config().with_value("execution.layout", "ddp")])
def test_a_layout_that_is_named_or_never_mentioned_is_not_planned(monkeypatch, config):
    monkeypatch.setattr(planning, "foretold", lambda *_: pytest.fail("measured for nothing"))
    assert cli_plan.laid_out(config, resume=None) is config


def test_where_a_plan_cannot_be_made_it_says_so(monkeypatch):
    with pytest.raises(ConfigError, match="--layout auto beside --resume"):
        cli_plan.laid_out(AUTO, resume="runs/a")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "a")
    for name, value in {
        "RANK": "0",
        "WORLD_SIZE": "2",
        "LOCAL_RANK": "0",
        "MASTER_ADDR": "a",
        "MASTER_PORT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match="--layout auto under torchrun or srun"):
        cli_plan.laid_out(AUTO, resume=None)


def test_a_folder_that_is_taken_is_refused_before_anything_is_measured(fanlight, colours, monkeypatch):
    monkeypatch.setattr(planning, "foretold", lambda *_: pytest.fail("measured for nothing"))
    answer = fanlight("train", colours, "--layout", "auto", "--device", "cpu", "--out", colours)
    assert answer.code == 2 and "exists and is not empty; name another" in answer.err


@pytest.mark.slow
def test_a_run_is_planned_and_trained(fanlight, colours, tmp_path):
    words = [
        "train",
        colours,
        "--model",
        "small-resnet",
        "--epochs",
        1,
        "--batch-size",
        16,
        "--no-report",
        "--out",
        tmp_path / "run",
    ]
    answer = fanlight(*words, "--layout", "auto", "--precision", "fp32")
    assert answer.code == 0, answer.err
    assert "images/s measured" in answer.out
    assert "execution.layout" not in answer.out.split("Run ")[1].splitlines()[1]
