"""Training's messages in a plan name what a plan has."""

import inspect

import pytest

from fanlight import cli_plan
from fanlight.errors import ConfigError
from fanlight.plan import wording


@pytest.mark.parametrize(
    ("training", "plan"),
    [
        ("use --epochs 3 or more", "use --set train.epochs=3 or more"),
        ("leave --ema out", "leave train.ema out"),
        ("use a larger --batch-size, or fewer --microbatches", "use a larger --batch-size, or fewer train.microbatches"),
        ("leave out --compile or --recompute", "leave out --set execution.compile=true or --set execution.recompute=true"),
        ("give --freeze and --no-augment", "give --set model.freeze=true and --set augment.off=true"),
        ("give --weights FILE or --pretrained", "give --set model.weights=FILE or --set model.pretrained=true"),
        ("or --no-cache-features", "or --set execution.cache_features=false"),
        ("use --freeze-epochs 0", "use --set model.freeze_epochs=0"),
        ("or use --policy none", "or use --set augment.policy=none"),
        ("start smaller (--image-size-start)", "start smaller (data.image_px_start)"),
        ("use --layout ddp, or leave it out", "use layout ddp, or leave it out"),
        ("leave --pipeline-schedule out", "leave execution.pipeline_schedule out"),
        ("use --ranks 2, --limit 5 or --set data.folds=3", "use --ranks 2, --limit 5 or --set data.folds=3"),
        ("torchrun's --nproc-per-node", "torchrun's --nproc-per-node"),
        ("first: `fanlight train --epochs 3`; or --ema 0.9", "first: `fanlight train --epochs 3`; or --set train.ema=0.9"),
    ],
)  # fmt: skip
def test_flags_that_a_plan_lacks_are_said_as_keys(training, plan):
    assert wording.of_plan(training) == plan
    with pytest.raises(ConfigError, match="x") as caught, wording.errors_of_plan():
        raise ConfigError(f"x {training}")
    assert str(caught.value) == f"x {plan}"


def test_the_flags_are_those_of_the_command():
    options = set(inspect.signature(cli_plan.plan).parameters) - {"data", "values", "as_json"}
    assert {name.replace("_", "-") for name in options} | {"set", "json", "help", "no-confirm"} == wording.FLAGS
