"""What happens before any rank trains: scan, limit, pack, split, decide, and write the run folder down."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from fanlight import __version__, console, machine, tasks
from fanlight import config as configuration
from fanlight.config import Config, keys
from fanlight.data import audit, checkup, copies, formats, pack, scan, source, split
from fanlight.data import manifest as manifests
from fanlight.data.manifest import SPLITS, Manifest
from fanlight.errors import ConfigError, DataError, DiskError
from fanlight.models import weights_file
from fanlight.train import checks, folder, layouting, resolve

OTHERWISE = (  # than a disk that lacks room for the pack
    "make it smaller with --set data.canvas_px=N, name another disk with --pack-dir, or train from the files with --no-pack"
)
PACKAGES = ("torch", "torchvision", "timm", "numpy", "pillow", "opencv-python-headless", "safetensors", "pyarrow")


@dataclass
class Gathered:
    """The data of a new run, read and packed, and what had to be decided for it."""

    asked: Config
    choices: resolve.Choices
    manifest: Manifest
    phases: dict[str, float]  # seconds


def gather(
    config: Config, *, ranks: int | None = None, local_ranks: int | None = None, local_cores: int | None = None
) -> Gathered:
    """Checks the config, scans and packs."""
    phases: dict[str, float] = {}
    check(config)
    if config.model.name is not None and config.model.name != resolve.PHOTO_MODEL:  # asking timm imports all of it
        from fanlight.models import zoo

        zoo.check_name(config.model.name)
    if ranks is not None:  # given by who started this process
        if config.execution.ranks not in (None, ranks) or (config.execution.layout == "serial" and ranks > 1):
            raise ConfigError(
                f"execution.ranks {config.execution.ranks}, layout {config.execution.layout}: this process is one of {ranks} "
                "ranks that torchrun or srun started; leave --ranks out, and --layout serial"
            )
        layout = config.execution.layout or ("ddp" if ranks > 1 else "serial")
        config = config.with_values({"execution.ranks": ranks, "execution.layout": layout})
    begin = time.perf_counter()
    choices, manifest = _scan(config, local_ranks=local_ranks, local_cores=local_cores)
    phases["scan_s"] = time.perf_counter() - begin
    _try(choices, manifest)
    begin = time.perf_counter()
    manifest, made = _pack(choices, manifest)
    phases["pack_s"] = time.perf_counter() - begin
    begin = time.perf_counter()
    manifest = _audit(choices, manifest, made)
    phases["audit_s"] = time.perf_counter() - begin
    return Gathered(config, choices, manifest, phases)


def pack_ahead(config: Config) -> None:
    """Leaves in the cache what `gather` then finds there. Needs no torch; DataError as soon as something is wrong."""
    choices, manifest = _scan(config, local_ranks=None)
    _try(choices, manifest)
    if config.execution.pack is not False:
        made = _make_pack(choices.config, manifest)
        with console.quiet():
            _audit(choices, made.mark_failed(manifest), made)


def check(config: Config) -> None:
    """ConfigError for what no new run can be, whatever its images."""
    checks.check(config)
    if config.model.weights is not None:
        weights_file.check(Path(config.model.weights))


def _try(choices: resolve.Choices, manifest: Manifest) -> None:
    """Decides everything once, silently and for nothing: what would be refused after packing is refused before, since large
    photos take an hour. What is measured, or asks the network, is left out; quarantine while packing may still change it."""
    config = choices.config
    if config.train.precision is None:
        config = config.with_value("train.precision", "fp32")
    if config.execution.cache_features is None:
        config = config.with_value("execution.cache_features", False)
    trial = resolve.Choices(config, local_ranks=choices.local_ranks, local_cores=choices.local_cores)
    with console.quiet(also_warnings=True):
        resolve.whole(trial, _split(config, manifest))


def _split(config: Config, manifest: Manifest) -> Manifest:
    return split.assign(
        manifest,
        val_fraction=config.data.val_fraction,
        seed=config.train.seed,
        folds=config.data.folds,
        fold=config.data.fold,
    )


def _scan(
    config: Config, *, local_ranks: int | None, local_cores: int | None = None
) -> tuple[resolve.Choices, Manifest]:
    """The images that are used, and the sizes that packing needs."""
    manifest = checkup.up_to_date(
        config.data.path, decode=config.execution.pack is False, group_by=config.data.group_by
    )
    if config.data.limit is not None:
        manifest = split.limit(manifest, config.data.limit, seed=config.train.seed)
    choices = resolve.Choices(config, local_ranks=local_ranks, local_cores=local_cores)
    resolve.sizes(choices, manifest)
    return choices, manifest


def _make_pack(config: Config, manifest: Manifest) -> pack.Pack:
    return pack.make(
        manifest, canvas_px=config.data.canvas_px or 0, parent=pack.parent(config.execution.pack_dir),
        workers=machine.cores_usable(), otherwise=OTHERWISE,
    )  # fmt: skip


def prepare(
    config: Config, *, out: Path | None, command: str, entered: float | None = None, ranks: int | None = None,
    local_ranks: int | None = None, local_cores: int | None = None, memory_bytes: int | None = None,
    gathered: Gathered | None = None,
) -> Path:  # fmt: skip
    """Makes the run folder of a new run: after it, ranks need nothing but that folder's path.

    `entered` as rank_main has it, None: now; `ranks`, `local_ranks`, their cores and the memory that the poorest of them has,
    where given by who started this process.
    """
    from fanlight.train import tune

    found = gathered or gather(config, ranks=ranks, local_ranks=local_ranks, local_cores=local_cores)
    config, choices = found.asked, found.choices
    resolve.warn_of_unused(config)
    _report_quarantine(found.manifest)
    manifest = _split(config, found.manifest)
    _warn_of_leaks(manifest)
    resolve.whole(choices, manifest)
    begin = time.perf_counter()
    place = tune.Place(torchrun=ranks is not None, memory_bytes=memory_bytes)
    measured = tune.measure(choices, manifest, place=place, entered=entered or time.time())
    found.phases["tune_s"] = time.perf_counter() - begin
    run = folder.create(config.data.path, choices.config.model.name or "model", out=out)
    with folder.whole_or_gone(run):
        configuration.write(run / "config.yaml", found.asked)
        configuration.write(run / "resolved.yaml", choices.config, reasons={**config.planned, **choices.reasons})
        manifest.save(run / "manifest.parquet")
        tasks.of(choices.config, manifest).keep(run)
        _write_environment(run, choices.config, command)
        summary = _summary(run, choices, manifest, command, found.phases)
        folder.write_summary(run, {**summary, **measured.facts()})
    console.say(f"Run {run}: {_data_words(manifest)}")
    for key, reason in choices.reasons.items():
        section, name = key.split(".")
        console.chose(key, getattr(getattr(choices.config, section), name), reason)
    return run


def _audit(choices: resolve.Choices, manifest: Manifest, made: pack.Pack | None) -> Manifest:
    """Finds copies before anything is split, on the packed pixels where there are some."""
    asked = choices.config.data.audit
    pixels = None
    if made is not None:
        pixels = audit.Pixels(source.of_pack(made, manifest).read, source=f"canvas {made.canvas_px}")
    manifest, found = copies.find(manifest, asked, pixels=pixels)
    if asked is None and found is not None:
        word, reason = ("thorough", "kept from fanlight check") if found.thorough else ("quick", "seen while packing")
        choices.take("data.audit", word, reason)
    copies.tell(manifest, found)
    return manifest


def _pack(choices: resolve.Choices, manifest: Manifest) -> tuple[Manifest, pack.Pack | None]:
    """Packs, unless told not to; where a pack cannot be and was not insisted on, says so and uses the files."""
    config = choices.config
    if config.execution.pack is False:
        resolve.order(choices, None)
        return manifest, None
    try:
        made = _make_pack(config, manifest)
    except (DataError, DiskError) as error:
        if config.execution.pack or config.execution.pack_dir:
            raise
        console.warn("training without a pack", why=str(error), do="It decodes every image at every epoch")
        choices.take("execution.pack", False, str(error))
        resolve.order(choices, None)
        return open_decoded(manifest), None
    resolve.order(choices, made)
    return made.mark_failed(manifest), made


def open_decoded(manifest: Manifest) -> Manifest:
    """The manifest with every file decoded once, so that no unreadable one is met while training."""
    given = {
        f"{name}s": manifest.column(name).tolist() for name in ("path", "label", "split", "group", "film", "weight")
    }
    listing = formats.Listing(
        root=manifest.root, source=manifest.source, captions=manifest.column("captions").tolist(),
        copies=manifest.column("copies").tolist(), **given,
    )  # fmt: skip
    return scan.scan(listing, known=manifest, decode=True)


def _report_quarantine(manifest: Manifest) -> None:
    bad = np.flatnonzero(~manifest.ok)
    for row in bad[:10]:
        console.say(f"  quarantined: {manifest.column('path')[row]}: {manifest.column('reason')[row]}")
    if len(bad) > 10:
        console.say(f"  … and {len(bad) - 10} more; `fanlight check` lists them all")


def _warn_of_leaks(manifest: Manifest) -> None:
    for name in ("val", "test"):
        rows = manifest.rows(name)
        if leaked := int(manifest.leaked[rows].sum()):
            console.warn(
                f"{leaked} of {len(rows)} {name} images have copies, or others of their group, in train",
                why="A score on them says what was learned by heart, so both scores are told, with them and without",
                do="Put all copies of a picture into one split, or leave the splits out and Fanlight makes them",
            )


def _data_words(manifest: Manifest) -> str:
    counts = ", ".join(f"{len(manifest.rows(name))} {name}" for name in SPLITS if len(manifest.rows(name)))
    what = f"{_captions(manifest)} captions" if manifest.is_captioned else f"{len(manifest.classes)} classes"
    return f"{what}, {counts} images, from {manifest.source}"


def _captions(manifest: Manifest) -> int:
    return sum(len(json.loads(text)) for text in manifest.column("captions")[manifest.captioned])


def _summary(
    run: Path, choices: resolve.Choices, manifest: Manifest, command: str, phases: dict[str, float]
) -> dict[str, Any]:
    config = choices.config
    facts = manifests.audit(manifest)
    bad = np.flatnonzero(~manifest.ok)
    steps = len(manifest.rows("train")) // (config.train.batch_size or 1) * (config.train.epochs or 0)
    return {
        "run": run.name, "version": folder.VERSION, "status": "running", "task": tasks.name_of(manifest),
        "model": config.model.name, "layout": config.execution.layout, "ranks": config.execution.ranks,
        "precision": config.train.precision, "epochs": config.train.epochs, "steps": steps,
        "batch_size": config.train.batch_size, "microbatches": config.train.microbatches, "metrics": {},
        "command": command, "started": datetime.now(UTC).isoformat(timespec="seconds"), "notes": [], "phases": phases,
        "data": {
            "path": config.data.path, "source": manifest.source, "fingerprint": manifest.fingerprint,
            "classes": list(manifest.classes), **({"captions": _captions(manifest)} if manifest.is_captioned else {}),
            "images": len(manifest.rows()),
            "splits": {name: len(manifest.rows(name)) for name in SPLITS if len(manifest.rows(name))},
            "quarantined": [
                {"path": str(manifest.column("path")[r]), "reason": str(manifest.column("reason")[r])} for r in bad
            ],
            "exact_copies": facts["exact_copies"], "near_copies": facts["near_copies"],
            "label_conflicts": facts["label_conflicts"], "leaks": facts["leaks"],
        },
    }  # fmt: skip


def _write_environment(run: Path, config: Config, command: str) -> None:
    from importlib import metadata

    versions = {"fanlight": __version__}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    e = config.execution
    document = {
        **machine.describe(), "versions": versions, "device": _device_name(e.device), "threads": e.threads,
        "ranks": e.ranks, "command": command,
    }  # fmt: skip
    (run / "env.json").write_text(json.dumps(document, indent=1))


def _device_name(device: str | None) -> str:
    if device == "cuda":
        import torch

        return f"cuda: {torch.cuda.get_device_name(0)}"
    return "cpu"


def take_changes(
    run: Path,
    asked: Config,
    *,
    ranks: int | None = None,
    local_ranks: int | None = None,
    local_cores: int | None = None,
) -> None:
    """What is asked beside `--resume`: who computes may change, since any layout continues any layout's checkpoint, and
    is written down; what decides the numbers is refused. A value that says the default is asked for as any other is.
    `ranks` where they are given by who started this process."""
    config, first = folder.read_config(run), configuration.read(run / "config.yaml")
    changed: dict[str, object] = {}
    for key in (key for key in keys() if key in asked.asked):
        section, name = key.split(".")
        now, then, before = (getattr(getattr(c, section), name) for c in (asked, config, first))
        if now == then or (key == "data.path" and folder.same_data(now, then)):
            continue
        if section != "execution":
            is_planned = now is None and key in configuration.AUTO and config.train.batch_auto
            if now == before or is_planned:  # the first command, given again
                continue
            raise ConfigError(
                f"{key} is {then} in {run} and cannot become {now}: it would be another run. Leave it out to continue, "
                "or train anew without --resume"
            )
        if key == "execution.autotune" and now:
            raise ConfigError(
                f"execution.autotune measures before the first step, and {run} keeps what was chosen then; leave --autotune "
                "out to continue, or train anew without --resume"
            )
        if now is not None:  # None: left open, and it was decided
            changed[key] = now
    if ranks not in (None, config.execution.ranks):
        changed["execution.ranks"] = ranks
    if not changed:
        return
    open_again = {
        key
        for key in (
            "execution.layout",
            "execution.ranks",
            "execution.threads",
            "execution.workers",
            "execution.pipeline_schedule",
            "execution.stages_per_rank",
            "execution.split_at",
        )
        if key not in changed
        and getattr(asked.execution, key.split(".")[1]) is None  # a value that was asked for stays
    }
    # More or fewer ranks make ddp of a serial run and the other way round; what else a run is, it stays until told.
    if "execution.layout" not in changed and config.execution.layout not in ("serial", "ddp"):
        open_again -= {key for key in open_again if key in layouting.SHAPE}
    is_moved = changed.keys() & {"execution.layout", "execution.ranks", "execution.device"}
    choices = resolve.Choices(
        config.with_values({**(dict.fromkeys(open_again) if is_moved else {}), **changed}), local_ranks=local_ranks,
        local_cores=local_cores,
    )  # fmt: skip
    layouting.check_same_algorithm(config, choices.config)
    checks.check(choices.config)
    resolve.who(choices, folder.read_manifest(run))
    reasons = {**dict.fromkeys(changed, "asked for when the run was resumed"), **choices.reasons}
    configuration.write(run / "resolved.yaml", choices.config, reasons={**_reasons(run), **reasons})
    execution = choices.config.execution
    folder.update_summary(run, layout=execution.layout, ranks=execution.ranks)
    for key in reasons:
        console.chose(key, getattr(execution, key.split(".")[1]), reasons[key])


def _reasons(run: Path) -> dict[str, str]:
    import yaml

    return (yaml.safe_load((run / "resolved.yaml").read_text()) or {}).get("reasons", {})


def with_more_microbatches(run: Path, config: Config) -> Config:
    """Twice the microbatches at the same global batch, written down with the reason: what a run does out of memory."""
    microbatches = config.train.microbatches * 2
    changed = replace(config, train=replace(config.train, microbatches=microbatches))
    reason = f"memory ran out with {config.train.microbatches}; the global batch stays"
    configuration.write(run / "resolved.yaml", changed, reasons={**_reasons(run), "train.microbatches": reason})
    folder.update_summary(run, microbatches=microbatches)
    return changed
