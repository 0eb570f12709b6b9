"""The job with Hugging Face's Trainer, around torchvision's ResNet-18.

newcomer  "Image classification" of its documentation: `load_dataset("imagefolder")`, `set_transform`, a collate function,
          `compute_metrics`, `eval_strategy="epoch"`, fp32; Trainer's other defaults, checkpoints and bars among them.
best      "Trainer" and "CPU" of its documentation: bf16 where the CPU has it, workers that persist, no saving, bar or
          reports; channels_last, and ImageFolder instead of `datasets`, which first writes Arrow files. Not
          `dataloader_drop_last`: it would drop validation images too.
recipe    its example fine-tunes a published ViT, which is no recipe from scratch; so this is Trainer's own AdamW and linear
          decay, with the job's learning rate, for 30 epochs; trained as in `best`.
--frozen  `requires_grad_(False)` on the backbone, its forward under no_grad and in evaluation mode.
"""

import job

J = job.options(__doc__)
DIARY = job.Diary()

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torchvision import models, transforms  # noqa: E402
from transformers import Trainer, TrainerCallback, TrainingArguments  # noqa: E402

TUNED, RECIPE = J.version != "newcomer", J.version == "recipe"


class Classifier(nn.Module):
    """Trainer wants a model that takes its batch by name and returns its loss."""

    def __init__(self, classes: int):
        super().__init__()
        self.network = models.resnet18(num_classes=classes)
        if J.frozen:
            job.load_backbone(self.network, J.frozen)
            self.network.fc, self.head = nn.Identity(), self.network.fc
            self.network.requires_grad_(False)

    def forward(self, pixel_values, labels=None):
        if TUNED:
            pixel_values = pixel_values.contiguous(memory_format=torch.channels_last)
        if J.frozen:
            self.network.eval()
            with torch.no_grad():
                features = self.network(pixel_values)
            logits = self.head(features)
        else:
            logits = self.network(pixel_values)
        return {"loss": nn.functional.cross_entropy(logits, labels), "logits": logits}


class Times(TrainerCallback):
    def on_epoch_end(self, args, state, control, **_):
        DIARY.phase("train")

    def on_evaluate(self, args, state, control, metrics, **_):
        DIARY.phase("evaluate")
        DIARY.epoch(metrics["eval_accuracy"])


def compute_metrics(predicted):
    logits, labels = predicted
    return {"accuracy": float((logits.argmax(-1) == labels).mean())}


def collate(rows):
    """Rows of `datasets` are dicts, those of ImageFolder pairs."""
    pairs = [(row["pixel_values"], row["label"]) if isinstance(row, dict) else row for row in rows]
    return {"pixel_values": torch.stack([pixels for pixels, _ in pairs]), "labels": torch.tensor([k for _, k in pairs])}


def sets():
    """Training and validation set, and the number of classes."""
    last = [transforms.ToTensor(), transforms.Normalize(job.MEAN, job.STD)]
    crop = [transforms.RandomResizedCrop(J.image_px, scale=job.CROP_SHARE), transforms.RandomHorizontalFlip(job.FLIP)]
    stored = round(J.image_px / job.EVAL_SHARE)
    centre = transforms.Compose([transforms.Resize(stored), transforms.CenterCrop(J.image_px), *last])
    augmented = centre if J.frozen else transforms.Compose([*crop, *last])
    if TUNED:
        from torchvision.datasets import ImageFolder

        train_set, val_set = ImageFolder(J.data / "train", augmented), ImageFolder(J.data / "val", centre)
        return train_set, val_set, len(train_set.classes)
    from datasets import load_dataset

    found = load_dataset("imagefolder", data_dir=str(J.data))

    def with_pixels(transform):
        def rows(batch):
            batch["pixel_values"] = [transform(image.convert("RGB")) for image in batch["image"]]
            del batch["image"]
            return batch

        return rows

    train_set = found["train"].with_transform(with_pixels(augmented))
    val_set = found["validation"].with_transform(with_pixels(centre))
    return train_set, val_set, found["train"].features["label"].num_classes


def main() -> None:
    DIARY.phase("imports")
    train_set, val_set, classes = sets()
    torch.manual_seed(J.seed)
    model = Classifier(classes)
    epochs = J.epochs or (30 if RECIPE else 4)
    more = {}
    if TUNED:
        model.to(memory_format=torch.channels_last)
        more = {
            "bf16": J.precision == "bf16", "dataloader_num_workers": J.workers,
            "dataloader_persistent_workers": J.workers > 0, "dataloader_pin_memory": False, "save_strategy": "no",
            "logging_strategy": "no", "disable_tqdm": True,
        }  # fmt: skip
    else:
        more = {"save_strategy": "epoch"}  # as in its example
    arguments = TrainingArguments(
        output_dir=str(J.work), num_train_epochs=epochs, per_device_train_batch_size=J.batch,
        per_device_eval_batch_size=J.batch, learning_rate=J.lr, weight_decay=J.weight_decay,
        lr_scheduler_type="linear" if RECIPE else "cosine", eval_strategy="epoch", remove_unused_columns=False,
        use_cpu=True, seed=J.seed, report_to="none", **more,
    )  # fmt: skip
    trainer = Trainer(
        model=model, args=arguments, data_collator=collate, train_dataset=train_set, eval_dataset=val_set,
        compute_metrics=compute_metrics, callbacks=[Times()],
    )  # fmt: skip
    DIARY.phase("setup")
    trainer.train()
    DIARY.done(count=len(val_set), images=epochs * len(train_set), steps=trainer.state.global_step)


if __name__ == "__main__":
    main()
