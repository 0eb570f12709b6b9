"""A plan of the GPUs that are here, beside what they do."""

import pytest
import torch

from fanlight.plan import choose, confirm, measure, planning, trial
from fanlight.plan.choose import Question
from plan import jobs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU"),
    pytest.mark.usefixtures("own_place"),
]
pytest_plugins = ["train.fixtures"]

WITHIN = 0.3  # of a rate that was measured for ten steps on a machine that others may use
MEMORY_WITHIN = 0.3  # of the allocator's peak; the floor of 10 % is benchmarks/plan_error.py's to show


@pytest.mark.parametrize("number_format", ["fp32", "bf16"])
def test_what_is_foretold_of_one_gpu_is_what_it_does(number_format):
    config = jobs.config(model__name="resnet18", train__batch_size=64, execution__device="cuda", data__image_px=128)
    counted, undivided, _ = planning.network_of(config, classes=10)
    calibration = measure.calibrate(config, counted, classes=10, precisions=["fp32", "bf16"])
    here = calibration.by_ranks[1].cluster("this machine")
    assert here.device.kind == "cuda" and here.memory_bytes == torch.cuda.get_device_properties(0).total_memory
    asked = config.with_value("train.batch_size", 96)
    about = Question(asked, counted, 10_000, here, calibration, 96, undivided=undivided)
    told = choose.predicted(about, "serial", ranks=1, number_format=number_format)
    assert told.fits and told.source == "simulated"
    ran = confirm.measure(trial.config_of(told, about), classes=10, steps=10)
    assert told.images_per_s == pytest.approx(96 / ran.step_s, rel=WITHIN)
    assert told.bytes == pytest.approx(ran.peak_bytes, rel=MEMORY_WITHIN)
