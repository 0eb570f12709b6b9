"""What the job's arithmetic takes: imports, the model, its steps on one batch that is in memory, its evaluations, nothing else.

No files, no augmentation, no logging, no checkpoint, no accuracy. torch and timm are imported because Fanlight's ResNet-18
is timm's. The driver gives an epoch's steps and forwards, all of whole batches; the class folders are not even looked at.
"""

import contextlib
import sys

import job


def taken(name: str) -> int:
    """An option that only this script has, removed from the command line."""
    at = sys.argv.index(name)
    value = int(sys.argv[at + 1])
    del sys.argv[at : at + 2]
    return value


STEPS, FORWARDS, CLASSES = taken("--steps"), taken("--forwards"), taken("--classes")
J = job.options(__doc__, versions=("best",))
DIARY = job.Diary()

import timm  # noqa: E402
import torch  # noqa: E402


def main() -> None:
    DIARY.phase("imports")
    torch.manual_seed(J.seed)
    epochs = J.epochs or 4
    model = timm.create_model("resnet18", num_classes=CLASSES).to(memory_format=torch.channels_last)
    mover = torch.optim.AdamW(model.parameters(), lr=J.lr, weight_decay=J.weight_decay, fused=True)
    images = torch.randn(J.batch, 3, J.image_px, J.image_px).contiguous(memory_format=torch.channels_last)
    labels = torch.randint(0, CLASSES, (J.batch,))
    bf16 = torch.autocast("cpu", torch.bfloat16) if J.precision == "bf16" else contextlib.nullcontext()
    DIARY.phase("setup")
    for _ in range(epochs):
        model.train()
        for _ in range(STEPS):
            with bf16:
                loss = torch.nn.functional.cross_entropy(model(images), labels)
            mover.zero_grad()
            loss.backward()
            mover.step()
        DIARY.phase("train")
        model.eval()
        with torch.inference_mode(), bf16:
            for _ in range(FORWARDS):
                model(images)
        DIARY.phase("evaluate")
        DIARY.epoch(None)
    DIARY.done(count=FORWARDS * J.batch, images=epochs * STEPS * J.batch, steps=epochs * STEPS)


if __name__ == "__main__":
    main()
