"""The job in a bare PyTorch loop.

newcomer  PyTorch's transfer-learning tutorial, without its published weights: ImageFolder, a DataLoader with its defaults,
          fp32, torchvision's transforms.
best      torchvision's `references/classification` and PyTorch's performance tuning guide: bf16 autocast where the CPU has
          it, channels_last, fused AdamW, persistent workers, whole batches only, `inference_mode`. Pillow's
          `Image.draft` lets libjpeg decode at a smaller scale, which Pillow's own documentation offers for this purpose.
recipe    torchvision's reference for ResNet-18: SGD, momentum .9, decay 1e-4, learning rate .1 per 256 images, divided by
          10 after each third of 90 epochs; trained as in `best`.
--frozen  the tutorial's "ConvNet as fixed feature extractor": the backbone in evaluation mode, no gradients through it.
"""

import contextlib

import job

J = job.options(__doc__)
DIARY = job.Diary()

import torch  # noqa: E402
from PIL import Image  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402
from torchvision import datasets, models, transforms  # noqa: E402

TUNED = J.version != "newcomer"
STORED_PX = round(J.image_px / job.EVAL_SHARE)


def open_small(path: str) -> Image.Image:
    """RGB, decoded at the smallest of libjpeg's scales that keeps twice the model's side."""
    with open(path, "rb") as file:
        image = Image.open(file)
        image.draft("RGB", (2 * J.image_px, 2 * J.image_px))
        return image.convert("RGB")


def loaders() -> tuple[DataLoader, DataLoader]:
    last = [transforms.ToTensor(), transforms.Normalize(job.MEAN, job.STD)]
    crop = [transforms.RandomResizedCrop(J.image_px, scale=job.CROP_SHARE), transforms.RandomHorizontalFlip(job.FLIP)]
    centre = transforms.Compose([transforms.Resize(STORED_PX), transforms.CenterCrop(J.image_px), *last])
    augmented = centre if J.frozen else transforms.Compose([*crop, *last])
    how = {"loader": open_small} if TUNED else {}
    train_set = datasets.ImageFolder(J.data / "train", augmented, **how)
    val_set = datasets.ImageFolder(J.data / "val", centre, **how)
    if not TUNED:
        return DataLoader(train_set, batch_size=J.batch, shuffle=True), DataLoader(val_set, batch_size=J.batch)
    kept = {"batch_size": J.batch, "num_workers": J.workers, "persistent_workers": J.workers > 0}
    return DataLoader(train_set, shuffle=True, drop_last=True, **kept), DataLoader(val_set, **kept)


def network(classes: int) -> nn.Module:
    model = models.resnet18(num_classes=classes)
    if J.frozen:
        job.load_backbone(model, J.frozen)
        model.requires_grad_(False)
        model.fc.requires_grad_(True)
    return model.to(memory_format=torch.channels_last) if TUNED else model


def optimizer(model: nn.Module, epochs: int, steps: int):
    """The optimizer, and the schedule that moves once per step."""
    trained = [p for p in model.parameters() if p.requires_grad]
    if J.version == "recipe":
        sgd = torch.optim.SGD(trained, lr=0.1 * J.batch / 256, momentum=0.9, weight_decay=1e-4)
        return sgd, torch.optim.lr_scheduler.StepLR(sgd, max(1, epochs * steps // 3), gamma=0.1)
    adamw = torch.optim.AdamW(trained, lr=J.lr, weight_decay=J.weight_decay, fused=TUNED or None)
    return adamw, torch.optim.lr_scheduler.CosineAnnealingLR(adamw, epochs * steps)


def autocast():
    return torch.autocast("cpu", torch.bfloat16) if J.precision == "bf16" else contextlib.nullcontext()


def prepared(images: torch.Tensor) -> torch.Tensor:
    return images.contiguous(memory_format=torch.channels_last) if TUNED else images


def evaluate(model: nn.Module, batches: DataLoader) -> tuple[int, int]:
    """Images named rightly, and images."""
    model.eval()
    right = total = 0
    with torch.inference_mode() if TUNED else torch.no_grad():
        for images, labels in batches:
            with autocast():
                named = model(prepared(images)).argmax(1)
            right += int((named == labels).sum())
            total += len(labels)
    return right, total


def main() -> None:
    DIARY.phase("imports")
    torch.manual_seed(J.seed)
    epochs = J.epochs or (90 if J.version == "recipe" else 4)
    train_batches, val_batches = loaders()
    model, loss_of = network(len(train_batches.dataset.classes)), nn.CrossEntropyLoss()
    mover, schedule = optimizer(model, epochs, len(train_batches))
    DIARY.phase("setup")
    seen = steps = total = 0
    for _ in range(epochs):
        model.train(not J.frozen)  # a frozen backbone's norms stand still
        for images, labels in train_batches:
            with autocast():
                loss = loss_of(model(prepared(images)), labels)
            mover.zero_grad()
            loss.backward()
            mover.step()
            schedule.step()
            seen, steps = seen + len(labels), steps + 1
        DIARY.phase("train")
        right, total = evaluate(model, val_batches)
        DIARY.phase("evaluate")
        DIARY.epoch(right / total)
    DIARY.done(count=total, images=seen, steps=steps)


if __name__ == "__main__":
    main()
