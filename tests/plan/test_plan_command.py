"""`fanlight plan`: keys, what-if, mistakes."""

import json
from pathlib import Path

import pytest

pytest_plugins = ["train.fixtures"]
pytestmark = pytest.mark.usefixtures("own_place")

HOSTS = """\
nodes: 2
device: {kind: cpu, count: 1, achieved: {fp32: 1 TFLOP/s}}
links: {between: {latency: 0.2ms, bandwidth: 1 Gbit/s}}
"""
KEYS = {
    "layout",
    "precision",
    "batch_size",
    "microbatches",
    "images_per_s",
    "band",
    "bytes",
    "fits",
    "reason",
    "source",
}


def test_the_what_if_needs_no_machine_but_a_file(fanlight, colours, tmp_path):
    """60 images: no batch of several ranks leaves twenty steps, so the batch is given."""
    words = ["plan", colours, "--model", "small-resnet", "--cluster", "dgx-1", "--ranks", "2,8", "--batch-size", 48]
    answer = fanlight(*words, "--json", "--trace", tmp_path / "t.json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    assert {"machine", "candidates", "chosen"} <= set(found)
    assert all(set(each) >= KEYS for each in found["candidates"])
    assert {each["ranks"] for each in found["candidates"]} == {1, 2, 8}
    assert {each["source"] for each in found["candidates"] if each["fits"]} == {"simulated"}
    assert found["chosen"]["fits"] and "images/s simulated" in found["chosen"]["reason"]
    assert found["machine"]["name"] == "DGX-1 (V100)"
    assert json.loads((tmp_path / "t.json").read_text())["otherData"]["source"] == "simulated"
    assert "simulated" in answer.err


def test_an_open_batch_is_each_layouts_own(fanlight, colours):
    words = ["plan", colours, "--model", "small-resnet", "--cluster", "dgx-1", "--ranks", "2,8", "--precision", "fp32"]
    answer = fanlight(*words, "--batch-size", "auto", "--json")
    assert answer.code == 0, answer.err
    found = json.loads(answer.out)
    possible = [each for each in found["candidates"] if each["fits"]]
    assert possible and all(each["batch_reason"] for each in possible)
    assert "batch by data\n" in answer.err, "so few images allow no more"
    assert all(each["batch_size"] <= 8 for each in possible), "60 images"
    stated = fanlight(*words, "--batch-size", 16, "--json")
    assert {each["batch_reason"] for each in json.loads(stated.out)["candidates"]} == {""}
    wrong = fanlight(*words, "--batch-size", "many")
    assert wrong.code == 2 and "train.batch_size should be int, got 'many'" in wrong.err


def test_decoding_at_every_read_is_said_to_be_in_no_rate(fanlight, colours):
    words = ["plan", colours, "--model", "small-resnet", "--cluster", "dgx-1", "--ranks", 1]
    assert "decoding" not in fanlight(*words).err
    answer = fanlight(*words, "--set", "execution.pack=false")
    assert answer.code == 0 and "decoding is in no rate here" in answer.err and "--no-pack" in answer.err


def test_ranks_are_numbers(fanlight, colours):
    for text in ("8,many", "0", ",", "-1", "1e9", "3,3,abc", "16385", 5000 * "9", "8\n9"):
        answer = fanlight("plan", colours, "--ranks", text)
        assert answer.code == 2 and "with commas between, such as 8,64,512" in answer.err
        assert "Traceback" not in answer.err and len(answer.err) < 200


def test_more_ranks_than_a_run_here_would_have_are_refused_before_anything_is_measured(fanlight, colours):
    answer = fanlight("plan", colours, "--ranks", 16_000)
    assert answer.code == 2 and "execution.ranks is 16000 on" in answer.err and "measuring" not in answer.out


def test_a_network_that_nobody_described_is_not_free(fanlight, colours, tmp_path):
    path = tmp_path / "one.yaml"
    path.write_text(
        "name: <b>one</b>\nnodes: 1\ndevice: {kind: cuda, count: 1, achieved: {fp32: 1 TFLOP/s}}\nlinks: {}\n"
    )
    answer = fanlight("plan", colours, "--cluster", path, "--ranks", "8")
    assert answer.code == 2 and "8 ranks take 8 nodes of <b>one</b>" in answer.err


def test_a_trace_that_has_no_place_is_refused_before_anything_is_planned(fanlight, colours, tmp_path):
    for place, words in ((tmp_path, "is a folder"), (tmp_path / "no" / "t.json", "there is no folder")):
        answer = fanlight("plan", colours, "--cluster", "dgx-1", "--trace", place)
        assert answer.code == 2 and words in answer.err and not answer.out


def test_a_batch_that_did_not_grow_is_not_too_large_for_few_images(fanlight, colours):
    """60 images: one rank trains as `train` would, and is a way to train it."""
    answer = fanlight("plan", colours, "--model", "small-resnet", "--cluster", "dgx-1", "--ranks", "1,8", "--json")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["chosen"]["layout"] == "serial"


def test_a_mistake_in_the_cluster_file_points_at_its_line(fanlight, colours, tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "nodes: 2\ndevice: {kind: cpu, count: 1, speed: 1}\nlinks:\n  between: {latency: 1ms, bandwidth: 1 Gb}\n"
    )
    answer = fanlight("plan", colours, "--cluster", path)
    assert answer.code == 2 and f"{path} line 4: links.between.bandwidth is '1 Gb'" in answer.err
    assert "Traceback" not in answer.err


def test_batches_that_are_too_large_for_the_data_are_refused(fanlight, colours):
    answer = fanlight("plan", colours, "--model", "small-resnet", "--cluster", "dgx-1", "--ranks", "8,64")
    assert "leave fewer than 20 steps" in answer.out + answer.err


def test_gradients_that_are_rounded_are_planned_where_training_rounds_them(fanlight, colours):
    words = ["plan", colours, "--model", "small-resnet", "--cluster", "hosts.yaml", "--ranks", 2, "--batch-size", 16]
    Path("hosts.yaml").write_text(HOSTS)
    found = {}
    for rounding in ("none", "bf16"):
        answer = fanlight(*words, "--precision", "fp32", "--json", "--set", f"train.compress_gradients={rounding}")
        assert answer.code == 0, answer.err
        document = json.loads(answer.out)
        found[rounding] = {each["layout"]: each for each in document["candidates"]}
    assert found["bf16"]["ddp"]["images_per_s"] > found["none"]["ddp"]["images_per_s"], "half as much is sent"
    assert document["chosen"]["layout"] == "ddp"
    assert "layout fsdp does not sum gradients as ddp does" in found["bf16"]["fsdp"]["reason"]


def test_a_what_if_has_the_formats_of_its_devices(fanlight, colours):
    """Whether this machine could train in them or not."""
    words = [
        "plan",
        colours,
        "--model",
        "small-resnet",
        "--cluster",
        "dgx-1",
        "--ranks",
        1,
        "--batch-size",
        16,
        "--json",
    ]
    answer = fanlight(*words, "--precision", "fp16")
    assert answer.code == 0, answer.err
    assert json.loads(answer.out)["chosen"]["precision"] == "fp16"
    answer = fanlight(*words, "--precision", "bf16")
    assert answer.code == 2 and "but in fp16, fp32; use one of these" in answer.err and not answer.out


def test_what_training_refuses_is_said_in_flags_that_there_are(fanlight, colours):
    answer = fanlight("plan", colours, "--set", "augment.rand_ops=0")
    assert (
        answer.code == 2
        and "augment.rand_ops is 0; it must be 1 or more, or use --set augment.policy=none" in answer.err
    )
    words = ["plan", colours, "--model", "small-resnet", "--cluster", "dgx-1", "--ranks", 2, "--batch-size", 16]
    answer = fanlight(*words, "--set", "train.ema=0.9", "--json")
    why = {each["layout"]: each["reason"] for each in json.loads(answer.out)["candidates"]}
    assert why["local-sgd"].endswith("; leave train.ema out")


def test_the_device_is_one_that_there_is(fanlight, colours):
    answer = fanlight("plan", colours, "--device", "tpu")
    assert answer.code == 2 and "execution.device is 'tpu'; use cpu or cuda" in answer.err


def test_a_layout_that_is_asked_for_is_not_left_out_in_silence(fanlight, colours):
    words = ["plan", colours, "--model", "small-resnet", "--cluster", "dgx-1", "--ranks", 1, "--batch-size", 16]
    answer = fanlight(*words, "--set", "execution.layout=ddp")
    assert answer.code == 0 and "execution.layout ddp left out of the plan" in answer.err


@pytest.mark.slow
def test_this_machine_is_measured_once(fanlight, colours):
    words = [
        "plan",
        colours,
        "--model",
        "small-resnet",
        "--batch-size",
        16,
        "--precision",
        "fp32",
        "--no-confirm",
        "--json",
    ]
    first = fanlight(*words, "--anew")  # another test may have measured it
    assert first.code == 0, first.err
    found = json.loads(first.out)
    assert found["machine"]["source"] == "measured" and "measuring this machine" in first.err
    assert found["chosen"]["images_per_s"] > 0
    second = fanlight(*words)
    assert "this machine was measured before" in second.err
    assert json.loads(second.out)["machine"]["fingerprint"] == found["machine"]["fingerprint"]
