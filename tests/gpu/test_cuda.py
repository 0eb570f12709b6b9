"""What only a GPU can show: the nccl code path, synchronised norms on CUDA, the main job in bf16."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch import nn

from fanlight.config import Optim
from fanlight.parallel import comm, norm
from fanlight.train import precision
from fanlight.train.ema import Average
from fanlight.train.optim import Optimizer

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU is visible"),
]
# TF32 off; a norm's sums run in another order on the GPU than on the CPU.
FP32_RTOL, FP32_ATOL = 1e-4, 1e-5


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    store = tmp_path_factory.mktemp("store") / "ranks"
    world = comm.join(rank=0, ranks=1, local_rank=0, local_ranks=1, device="cuda", init_method=f"file://{store}")
    yield world
    comm.leave()


def test_nccl_world_sums_and_gathers(world):
    assert torch.distributed.get_backend(world.group) == "nccl"
    assert world.sum_host(np.array([3.0])) == pytest.approx([3.0])
    rows = np.arange(6.0).reshape(3, 2)
    np.testing.assert_array_equal(world.gather(rows), rows)


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_synchronised_norm_equals_batch_norm_on_cuda(world, memory_format):
    torch.manual_seed(0)
    x = (torch.randn(6, 5, 9, 9) * 3 + 2).to("cuda", memory_format=memory_format)
    plain, shared = nn.BatchNorm2d(5).cuda(), nn.BatchNorm2d(5).cuda()
    norm.synchronise(nn.Sequential(shared), world.norm)
    grads = []
    for module in (plain, shared):
        leaf = x.clone(memory_format=torch.preserve_format).requires_grad_()
        out = module(leaf)
        (out * torch.linspace(-1, 1, out.numel(), device="cuda").view_as(out)).sum().backward()
        grads.append((out.detach(), leaf.grad, module.weight.grad, module.bias.grad, module.running_var))
    for expected, got in zip(*grads):
        torch.testing.assert_close(got, expected, rtol=FP32_RTOL, atol=FP32_ATOL)


def test_replicated_step_on_one_gpu_equals_the_plain_one(world):
    from fanlight.parallel.replicate import Replicated

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 2)).cuda()
    x = torch.randn(4, 3, 8, 8, device="cuda")
    model(x).square().sum().backward()
    expected = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    replicated = Replicated(model, world)
    replicated.settle(x)
    replicated.wrapped(x).square().sum().backward()
    for parameter, gradient in zip(model.parameters(), expected):
        torch.testing.assert_close(parameter.grad, gradient, rtol=FP32_RTOL, atol=FP32_ATOL)


@pytest.mark.parametrize("clip", [None, 1.0])
def test_updates_and_averages_never_wait_for_the_gpu_and_skip_spoiled_gradients(clip):
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(16, 2)).cuda()
    config = Optim(name="adamw", lr=0.1, weight_decay=0.1, clip_norm=clip, schedule="constant", warmup_share=0.0)
    optimizer, average = Optimizer([model], config, steps=4, scaled=False), Average([model], decay=0.9)
    norms, kept = [], []
    for step, poison in enumerate((1.0, 1.0, float("nan"))):
        for parameter in model.parameters():
            parameter.grad = torch.full_like(parameter, poison)
        if step:  # the first makes the state
            torch.cuda.set_sync_debug_mode("error")
        try:
            norms.append(optimizer.update(step))
            average.update(step)
        finally:
            torch.cuda.set_sync_debug_mode("default")
        kept.append([parameter.detach().clone() for parameter in model.parameters()])
    assert [bool(norm.isfinite()) for norm in norms] == [True, True, False]
    assert all(torch.equal(a, b) for a, b in zip(kept[1], kept[2]))
    assert not torch.equal(kept[0][0], kept[1][0])


def test_fastest_precision_is_a_tensor_core_format():
    name, reason = precision.fastest(torch.device("cuda"))
    assert name in ("bf16", "fp16") and "tensor cores" in reason


@pytest.mark.parametrize("number_format", ["bf16", "fp16", "fp32"])
def test_the_main_job_learns_digits_on_the_gpu(tmp_path, number_format):
    command = [
        sys.executable, "-m", "fanlight", "train", "digits", "--epochs", "6", "--json", "--device", "cuda",
        "--precision", number_format, "--out", str(tmp_path / "run"), "--no-report",
    ]  # fmt: skip
    environment = {**os.environ, "FANLIGHT_CACHE": str(tmp_path / "cache")}
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True, timeout=120)
    result = json.loads(answer.stdout)
    assert result["precision"] == number_format
    assert result["metrics"]["val"]["accuracy"] > 0.9


def test_choices_are_measured_on_the_gpu(tmp_path):
    command = [
        sys.executable, "-m", "fanlight", "train", "digits", "--epochs", "2", "--json", "--device", "cuda", "--autotune",
        "--batch-size", "auto", "--time-limit", "5m", "--out", str(tmp_path / "run"), "--no-report",
    ]  # fmt: skip
    environment = {**os.environ, "FANLIGHT_CACHE": str(tmp_path / "cache")}
    subprocess.run(command, stdout=subprocess.PIPE, text=True, env=environment, check=True, timeout=300)
    summary = json.loads((tmp_path / "run" / "run.json").read_text())
    tried = {gain["candidate"] for gain in summary["autotune"]["gains"]}
    assert tried >= {"bf16", "fp16", "contiguous"} and summary["status"] == "finished"


def test_more_ranks_than_gpus_are_refused(tmp_path):
    from fanlight.errors import ConfigError

    count = torch.cuda.device_count()
    with pytest.raises(ConfigError, match=f"only {count} GPUs are visible"):
        comm.join(
            rank=0, ranks=count + 1, local_rank=0, local_ranks=count + 1, device="cuda",
            init_method=f"file://{tmp_path / 'store'}",
        )  # fmt: skip
