"""What a GPU gains over all cores of its machine."""

import pytest

from fanlight.study.layouts import grid, result
from study.layouts import folders


def test_what_a_gpu_gains_is_of_images_whatever_batches_are(tmp_path):
    """With --weak two cores take twice the batch of one, and of a GPU: a step of theirs is of more images."""
    points = grid.points(cores=2, gpus=1, names=["serial"], precisions=["fp32"])
    study = folders.begin(tmp_path / "study", points, scaling="weak")
    for number in range(3):
        for point in points:
            step = {"compute": 0.2 if point.device == "cpu" else 0.02, "launch": 0.0, "optimizer": 0.0}
            folders.run(study, point, number, changed={"train.batch_size": folders.BATCH * point.cores}, **step)
    document = result.write(study)
    found = {point["name"]: point for point in document["points"]}
    both, gpu = found["serial-2cores-fp32"], found["serial-1gpu-fp32"]
    assert both["step_s"] / gpu["step_s"] == pytest.approx(10)
    assert gpu["device_gain"] == pytest.approx(gpu["images_per_s"] / both["images_per_s"]) == pytest.approx(5)
    words = "a gain of 5.0× from both cores of the same machine to the GPU, in images/s, by batches of 64 and 32."
    assert f"fp32: one GPU does 1,600.0 images/s, {words}" in document["verdict"].splitlines()
