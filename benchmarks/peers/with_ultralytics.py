"""The job with Ultralytics' classification trainer, called through its Python API, offline.

Its ResNet-18 is its own `yolo11-cls-resnet18`: torchvision's layers under a 1280-channel head, here without published
weights. Its crop, mirror and optimizer are set to the job's; RandAugment, erasing and colour changes are off.

newcomer  "Train" of its documentation: `model.train(data=…, epochs=…, imgsz=…, batch=…)` with the job's settings and all
          else as it comes, 8 workers, plots and checkpoints among it.
best      "Train settings" of its documentation: `cache="ram"` (photos decoded once; `--no-cache` where they do not fit in
          memory), `--workers`, no plots and no checkpoints, `deterministic=False`. Its trainer refuses bf16 on CPUs and
          ignores channels_last there, so it is fp32 whatever `--precision` says.
nano      as `best` with its own smaller network, `yolo11n-cls`.
recipe    its command's defaults for `yolo11n-cls`: 100 epochs, batch 16, `optimizer=auto`, RandAugment, erasing .4; with
          the speed settings of `best`.
--frozen  `freeze=[0]`, the backbone; its norms are put into evaluation mode by a callback.
"""

import sys

import job

CACHE = "--no-cache" not in sys.argv
if not CACHE:
    sys.argv.remove("--no-cache")
J = job.options(__doc__, versions=("newcomer", "best", "nano", "recipe"))
DIARY = job.Diary()

from ultralytics import YOLO, settings  # noqa: E402

RESNET = """
nc: 1000
backbone:
  - [-1, 1, TorchVision, [512, resnet18, None, True, 2]]
head:
  - [-1, 1, Classify, [nc]]
"""
SAME = {  # the job's settings; scale is 1 - the smallest share of a crop
    "optimizer": "AdamW", "lr0": J.lr, "lrf": 0.0, "cos_lr": True, "momentum": 0.9, "weight_decay": J.weight_decay,
    "warmup_epochs": 0, "nbs": J.batch, "batch": J.batch, "scale": 1 - job.CROP_SHARE[0], "fliplr": job.FLIP,
    "auto_augment": None, "erasing": 0.0, "hsv_h": 0.0, "hsv_s": 0.0, "hsv_v": 0.0,
}  # fmt: skip
FAST = {
    "workers": J.workers, "amp": False, "cache": "ram" if CACHE else False,
    "plots": False, "save": False, "deterministic": False,
}  # fmt: skip
OF_VERSION = {"newcomer": SAME, "best": SAME | FAST, "nano": SAME | FAST, "recipe": FAST}
EPOCHS = J.epochs or (100 if J.version == "recipe" else 4)


def load_backbone(trainer) -> None:
    """Puts the given ResNet-18's weights, in their order, into both copies that the trainer keeps."""
    from safetensors.torch import load_file

    order = ("conv1.", "bn1.", "layer1.", "layer2.", "layer3.", "layer4.")
    given = load_file(J.frozen)
    for model in (trainer.model, trainer.ema.ema):
        backbone = model.model[0].m  # conv1, bn1, relu, maxpool, layer1 … layer4
        for part, prefix in zip((backbone[0], backbone[1], *backbone[4:8]), order):
            part.load_state_dict({k.removeprefix(prefix): v for k, v in given.items() if k.startswith(prefix)})


def main() -> None:
    settings.update({name: False for name, value in settings.items() if value is True})  # loggers, synchronisation
    DIARY.phase("imports")
    if J.version in ("nano", "recipe"):
        model = YOLO("yolo11n-cls.yaml")
    else:
        (J.work / "resnet18-cls.yaml").write_text(RESNET)
        model = YOLO(J.work / "resnet18-cls.yaml", task="classify")
    seen = steps = 0

    def batch_done(trainer) -> None:
        nonlocal steps
        steps += 1

    def trained(trainer) -> None:
        nonlocal seen
        seen += len(trainer.train_loader.dataset)
        DIARY.phase("train")

    def validated(trainer) -> None:
        """Called after each epoch, and once more when the trainer has scored its best weights again."""
        DIARY.phase("evaluate")
        if trainer.epoch < EPOCHS:
            DIARY.epoch(float(trainer.metrics["metrics/accuracy_top1"]))

    model.add_callback("on_train_start", lambda trainer: DIARY.phase("setup"))
    model.add_callback("on_train_batch_end", batch_done)
    model.add_callback("on_train_epoch_end", trained)
    model.add_callback("on_fit_epoch_end", validated)
    more = dict(OF_VERSION[J.version])
    if J.frozen:
        model.add_callback("on_pretrain_routine_end", load_backbone)
        model.add_callback("on_train_batch_start", lambda trainer: trainer.model.model[0].eval())
        more |= {"freeze": [0], "scale": 0.0, "fliplr": 0.0}
    model.train(
        data=str(J.data.resolve()), epochs=EPOCHS, imgsz=J.image_px, device="cpu", pretrained=False, seed=J.seed,
        project=str(J.work.resolve()), name="run", exist_ok=True, **more,
    )  # fmt: skip
    count = len(model.trainer.test_loader.dataset)
    DIARY.done(count=count, images=seen, steps=steps)


if __name__ == "__main__":
    main()
