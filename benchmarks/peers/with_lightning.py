"""The job with Lightning 2.

newcomer  "Lightning in 15 minutes": a LightningModule and `Trainer(max_epochs=…)`, ImageFolder, DataLoaders with their
          defaults, fp32, and Lightning's own logging and checkpointing.
best      "Speed up model training" and "N-bit precision" of its documentation: `precision="bf16-mixed"` where the CPU has
          bf16, channels_last, persistent workers, no logger, bar, summary, checkpoint or sanity check, inference mode.
recipe    its "CIFAR10 ~94% Baseline Tutorial": ResNet-18 (at 32 px with a 3×3 stem and no pooling), SGD .05, momentum .9,
          decay 5e-4, OneCycleLR to .1, batch 256, 30 epochs, padded crops and mirrors at 32 px; trained as in `best`.
--frozen  "Transfer Learning" of its documentation: the feature extractor in evaluation mode, under no_grad.
"""

import job

J = job.options(__doc__)
DIARY = job.Diary()

import lightning as L  # noqa: E402
import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader  # noqa: E402
from torchvision import datasets, models, transforms  # noqa: E402

TUNED, RECIPE = J.version != "newcomer", J.version == "recipe"
BATCH = 256 if RECIPE and J.image_px <= 64 else J.batch  # the tutorial's batch is of 50,000 small images
TRAINER = {
    "newcomer": {},
    "best": {
        "precision": "bf16-mixed" if J.precision == "bf16" else "32-true", "logger": False, "num_sanity_val_steps": 0,
        "enable_checkpointing": False, "enable_progress_bar": False, "enable_model_summary": False,
    },
}  # fmt: skip
TRAINER["recipe"] = TRAINER["best"]


class Classifier(L.LightningModule):
    def __init__(self, classes: int):
        super().__init__()
        self.network = models.resnet18(num_classes=classes)
        if RECIPE and J.image_px <= 64:
            self.network.conv1 = nn.Conv2d(3, 64, kernel_size=3, stride=1, padding=1, bias=False)
            self.network.maxpool = nn.Identity()
        if J.frozen:
            job.load_backbone(self.network, J.frozen)
            self.network.fc, self.head = nn.Identity(), self.network.fc
            self.network.requires_grad_(False)
        if TUNED:
            self.network.to(memory_format=torch.channels_last)
        self.loss = nn.CrossEntropyLoss()
        self.right = self.total = self.seen = 0

    def forward(self, images):
        if TUNED:
            images = images.contiguous(memory_format=torch.channels_last)
        if not J.frozen:
            return self.network(images)
        self.network.eval()
        with torch.no_grad():
            features = self.network(images)
        return self.head(features)

    def training_step(self, batch, _):
        images, labels = batch
        self.seen += len(labels)
        return self.loss(self(images), labels)

    def on_train_epoch_end(self):
        """Lightning comes here after the validation of the epoch."""
        DIARY.phase("train")

    def on_validation_epoch_start(self):
        DIARY.phase("train")
        self.right = self.total = 0

    def validation_step(self, batch, _):
        images, labels = batch
        self.right += (self(images).argmax(1) == labels).sum()
        self.total += len(labels)

    def on_validation_epoch_end(self):
        if not self.trainer.sanity_checking:
            DIARY.phase("evaluate")
            DIARY.epoch(int(self.right) / self.total)

    def configure_optimizers(self):
        trained = [p for p in self.parameters() if p.requires_grad]
        steps = self.trainer.estimated_stepping_batches
        if RECIPE:
            mover = torch.optim.SGD(trained, lr=0.05, momentum=0.9, weight_decay=5e-4)
            schedule = torch.optim.lr_scheduler.OneCycleLR(mover, 0.1, total_steps=steps)
        else:
            mover = torch.optim.AdamW(trained, lr=J.lr, weight_decay=J.weight_decay, fused=TUNED or None)
            schedule = torch.optim.lr_scheduler.CosineAnnealingLR(mover, steps)
        return {"optimizer": mover, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def loaders() -> tuple[DataLoader, DataLoader]:
    last = [transforms.ToTensor(), transforms.Normalize(job.MEAN, job.STD)]
    flip = transforms.RandomHorizontalFlip(job.FLIP)
    crop = [transforms.RandomResizedCrop(J.image_px, scale=job.CROP_SHARE), flip]
    stored = round(J.image_px / job.EVAL_SHARE)
    if RECIPE and J.image_px <= 64:
        crop, stored = [transforms.Resize(J.image_px), transforms.RandomCrop(J.image_px, padding=4), flip], J.image_px
    centre = transforms.Compose([transforms.Resize(stored), transforms.CenterCrop(J.image_px), *last])
    train_set = datasets.ImageFolder(J.data / "train", centre if J.frozen else transforms.Compose([*crop, *last]))
    val_set = datasets.ImageFolder(J.data / "val", centre)
    if not TUNED:
        return DataLoader(train_set, batch_size=BATCH, shuffle=True), DataLoader(val_set, batch_size=BATCH)
    kept = {"batch_size": BATCH, "num_workers": J.workers, "persistent_workers": J.workers > 0}
    whole = len(train_set) >= BATCH  # else there would be no batch at all
    return DataLoader(train_set, shuffle=True, drop_last=whole, **kept), DataLoader(val_set, **kept)


def main() -> None:
    DIARY.phase("imports")
    L.seed_everything(J.seed)
    train_batches, val_batches = loaders()
    model = Classifier(len(train_batches.dataset.classes))
    trainer = L.Trainer(
        max_epochs=J.epochs or (30 if RECIPE else 4), accelerator="cpu", default_root_dir=J.work, **TRAINER[J.version]
    )
    DIARY.phase("setup")
    trainer.fit(model, train_batches, val_batches)
    DIARY.done(count=model.total, images=model.seen, steps=trainer.global_step)


if __name__ == "__main__":
    main()
