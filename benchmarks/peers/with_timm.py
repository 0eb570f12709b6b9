"""The job with timm's own pieces, put together as its "Training" documentation and quickstart describe.

newcomer  `create_dataset`, `create_loader` (prefetcher, one worker: its defaults), `create_model`, `create_optimizer_v2`,
          `create_scheduler_v2`, `utils.AverageMeter` and `utils.accuracy`, fp32.
best      what its training script offers for speed: `--amp --amp-dtype bfloat16` where the CPU has it, `--channels-last`,
          `--workers`, `--use-multi-epochs-loader`; bilinear crops as in the job, no colour jitter, no checkpoints.
recipe    "ResNet strikes back", procedure A3, which timm's documentation names for ResNets from scratch: LAMB, decay .02,
          cosine with 5 epochs of warm-up, binary cross-entropy, mixup .1, cutmix 1, RandAugment m6, 100 epochs. Its
          learning rate of .008 is for a batch of 2048 and follows the square root of the batch here.
--frozen  the backbone in evaluation mode and without gradients, `model.get_classifier()` trained.
"""

import contextlib

import job

J = job.options(__doc__)
DIARY = job.Diary()

import timm  # noqa: E402
import torch  # noqa: E402
from timm import utils  # noqa: E402
from timm.data import Mixup, create_dataset, create_loader  # noqa: E402
from timm.loss import BinaryCrossEntropy  # noqa: E402
from timm.optim import create_optimizer_v2  # noqa: E402
from timm.scheduler import create_scheduler_v2  # noqa: E402

TUNED, RECIPE = J.version != "newcomer", J.version == "recipe"
DEVICE = torch.device("cpu")


def loaders():
    train_set = create_dataset("", root=str(J.data), split="train", is_training=True)
    val_set = create_dataset("", root=str(J.data), split="val")
    more = {"num_workers": J.workers, "use_multi_epochs_loader": True} if TUNED else {}
    crop = {"scale": (0.08, 1.0) if RECIPE else job.CROP_SHARE, "hflip": job.FLIP, "color_jitter": 0.0}
    if RECIPE:
        crop["auto_augment"] = "rand-m6-mstd0.5-inc1"
    if J.frozen:
        crop = {"no_aug": True}
    shared = {"input_size": (3, J.image_px, J.image_px), "batch_size": J.batch, "device": DEVICE, **more}
    train_batches = create_loader(train_set, is_training=True, interpolation="bilinear", **crop, **shared)
    val_batches = create_loader(val_set, crop_pct=job.EVAL_SHARE, interpolation="bilinear", **shared)
    return train_batches, val_batches, len(train_set.reader.class_to_idx)


def network(classes: int):
    model = timm.create_model("resnet18", num_classes=classes)
    if J.frozen:
        job.load_backbone(model, J.frozen)
        model.requires_grad_(False)
        model.get_classifier().requires_grad_(True)
    return model.to(memory_format=torch.channels_last) if TUNED else model


def autocast():
    return torch.autocast("cpu", torch.bfloat16) if J.precision == "bf16" else contextlib.nullcontext()


def prepared(images):
    return images.contiguous(memory_format=torch.channels_last) if TUNED else images


@torch.inference_mode()
def evaluate(model, batches) -> tuple[float, int]:
    model.eval()
    top1 = utils.AverageMeter()
    for images, labels in batches:
        with autocast():
            outputs = model(prepared(images))
        top1.update(utils.accuracy(outputs, labels)[0].item(), len(labels))
    return top1.avg / 100, top1.count


def main() -> None:
    DIARY.phase("imports")
    utils.random_seed(J.seed)
    epochs = J.epochs or (100 if RECIPE else 4)
    train_batches, val_batches, classes = loaders()
    model = network(classes)
    mixup, loss_of = None, torch.nn.CrossEntropyLoss()
    opt, lr, decay, warmup = "adamw", J.lr, J.weight_decay, 0
    if RECIPE:
        mixup, loss_of = Mixup(mixup_alpha=0.1, cutmix_alpha=1.0, num_classes=classes), BinaryCrossEntropy()
        opt, lr, decay, warmup = "lamb", 8e-3 * (J.batch / 2048) ** 0.5, 0.02, min(5, epochs // 4)
    mover = create_optimizer_v2(model, opt=opt, lr=lr, weight_decay=decay)
    schedule, _ = create_scheduler_v2(
        mover, sched="cosine", num_epochs=epochs, warmup_epochs=warmup, warmup_lr=lr / 100, step_on_epochs=False,
        updates_per_epoch=len(train_batches),
    )  # fmt: skip
    DIARY.phase("setup")
    seen = steps = count = 0
    for _ in range(epochs):
        model.train(not J.frozen)
        for images, labels in train_batches:
            targets = labels
            if mixup is not None:
                images, targets = mixup(images, labels)
            with autocast():
                loss = loss_of(model(prepared(images)), targets)
            mover.zero_grad()
            loss.backward()
            mover.step()
            seen, steps = seen + len(labels), steps + 1
            schedule.step_update(num_updates=steps)
        DIARY.phase("train")
        accuracy, count = evaluate(model, val_batches)
        DIARY.phase("evaluate")
        DIARY.epoch(accuracy)
    DIARY.done(count=count, images=seen, steps=steps)


if __name__ == "__main__":
    main()
