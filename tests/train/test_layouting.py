"""What layouts ask of the rest of a config, what they decide, and that a resumed run stays the algorithm that it was."""

import pytest

from fanlight.config import Config
from fanlight.errors import ConfigError
from fanlight.train import devices, layouting, resolve


@pytest.fixture(autouse=True)
def no_gpu(monkeypatch):
    monkeypatch.setattr(devices, "gpus_visible", lambda: 0)


def config(layout: str | None = None, **values: object) -> Config:
    keys = {key.replace("__", "."): value for key, value in values.items()}
    return Config().with_values({"execution.layout": layout, **keys})


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (config(execution__pipeline_schedule="gpipe"), "are of a pipeline; add --layout pipeline, or leave them out"),
        (
            config("ddp", execution__split_at="layer1"),
            "execution.split_at is layer1, and layout ddp cuts nothing; leave it",
        ),
        (
            config("pipeline", execution__ranks=2, execution__split_at="a,b"),
            "execution.split_at names 2 cuts (a, b), which makes 3 stages, and layout pipeline has 2; name 1, or leave it",
        ),
        (
            config("pipe=2,shard=2"),
            "layout pipe=2,shard=2 shards a pipeline's stages, which is not built; use replicate",
        ),
        (
            config("tensor", model__freeze=True),
            "model.freeze does not go with layout tensor: the last layer alone trains",
        ),
        (
            config("fsdp", model__freeze_epochs=1),
            "model.freeze_epochs does not go with layout fsdp: what trains changes",
        ),
        (config("pipeline", execution__compile=True), "execution.compile does not go with layout pipeline"),
        (
            config("local-sgd", train__precision="fp16"),
            "layout local-sgd with fp16: ranks train apart, and each would skip",
        ),
        (config("diloco", train__ema=0.9), "layout diloco with train.ema 0.9: the ranks' weights are averaged already"),
        (config("diloco", optim__outer_momentum=1.0), "optim.outer_momentum is 1.0; it must be 0 or more and below 1"),
        (config("dataparallel"), "layout dataparallel splits batches over the GPUs of one process, and 0 can be used"),
        (config(train__compress_gradients="int8"), "train.compress_gradients is 'int8'; use bf16, or none"),
        (
            config("fsdp", train__compress_gradients="bf16"),
            "layout fsdp does not sum gradients as ddp does; use --layout ddp",
        ),
        (config("serial", train__compress_gradients="bf16"), "layout serial does not sum gradients as ddp does"),
    ],
)
def test_what_cannot_work_together_is_refused(given, message):
    with pytest.raises(ConfigError) as caught:
        layouting.check(given)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("before", "after", "message"),
    [
        ("ddp", "diloco", "the run was trained as ddp and cannot go on as diloco: diloco is another algorithm"),
        (
            "local-sgd",
            "ddp",
            "the run was trained as local-sgd and cannot go on as ddp: local-sgd is another algorithm",
        ),
        ("local-sgd", "diloco", "the run was trained as local-sgd and cannot go on as diloco"),
        ("serial", "dataparallel", "cannot go on as dataparallel: dataparallel is another algorithm"),
    ],
)
def test_a_resumed_run_stays_the_algorithm_that_it_was(before, after, message):
    with pytest.raises(ConfigError) as caught:
        layouting.check_same_algorithm(config(before), config(after))
    assert message in str(caught.value)


def test_ranks_that_train_apart_keep_their_number():
    four, two = (config("local-sgd", execution__ranks=ranks) for ranks in (4, 2))
    layouting.check_same_algorithm(four, four)
    with pytest.raises(
        ConfigError, match="trained by 4 ranks as local-sgd and cannot go on with 2: their number decides"
    ):
        layouting.check_same_algorithm(four, two)
    for before, after in (("serial", "ddp"), ("fsdp", "pipe=2,tensor=2"), ("tensor", "serial")):
        layouting.check_same_algorithm(config(before, execution__ranks=4), config(after, execution__ranks=2))


@pytest.mark.parametrize(
    ("layout", "cores", "ranks"),
    [("ddp", 4, 4), ("ddp", 1, 2), ("ddp", 64, 16), ("hsdp", 2, 4), ("pipe=2,tensor=3", 2, 6), ("local-sgd", 3, 3)],
)
def test_ranks_by_layout_and_cores(layout, cores, ranks):
    choices = resolve.Choices(config(layout))
    layouting.ranks(choices, gpus=0, cores=cores)
    assert choices.config.execution.ranks == ranks and choices.reasons["execution.ranks"]


def test_one_gpu_is_no_layout():
    with pytest.raises(ConfigError, match="layout fsdp takes one GPU per rank, and 1 is visible"):
        layouting.ranks(resolve.Choices(config("fsdp")), gpus=1, cores=8)


@pytest.mark.parametrize(
    ("layout", "batch", "asked", "microbatches"),
    [
        ("pipeline", 64, {}, 8), ("pipeline", 16, {}, 4), ("pipeline", 4, {}, 1), ("replicate=1,pipe=2", 64, {}, 8),
        ("pipeline", 64, {"train.microbatches": 2}, 2), ("model-parallel", 64, {}, 1), ("ddp", 64, {}, 1),
    ],
)  # fmt: skip
def test_a_pipeline_has_microbatches_for_its_stages(layout, batch, asked, microbatches):
    given = config(layout, execution__ranks=2, train__batch_size=batch).with_values(asked)
    choices = resolve.Choices(given)
    layouting.mathematics(choices)
    assert choices.config.train.microbatches == microbatches


def test_ranks_that_train_apart_meet_every_eight_steps():
    choices = resolve.Choices(config("diloco", execution__ranks=2))
    layouting.mathematics(choices)
    c = choices.config
    assert (c.train.sync_every, c.optim.outer_lr, c.optim.outer_momentum) == (8, 0.7, 0.9)
