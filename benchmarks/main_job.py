"""Fanlight beside the trainers that its users would pick instead: whole commands, from Enter to the end of validation.

    python benchmarks/main_job.py --question job --data ../shared/data/weather4 --work scratch/contest
    python benchmarks/main_job.py --question large --data ../shared/data/weather4 --work scratch/contest
    python benchmarks/main_job.py --question recipe --data ../shared/data/weather4 --work scratch/contest
    python benchmarks/main_job.py --question recipe --cifar ../shared/data/cifar10.tar.xz --work scratch/contest
    python benchmarks/main_job.py --question frozen --data ../shared/data/weather4 \
        --backbone-data ../shared/data/asl29 --work scratch/contest

Run it with an environment that has Fanlight and benchmarks/peers/requirements.txt. Finished runs are kept in --work: the
same command again continues, and writes the table of what there is. See docs/benchmarks.md.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import json
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import date
from importlib import metadata
from pathlib import Path

from contest import contestants, photos, plots, rounds, tables
from contest.contestants import FANLIGHT, Contestant, Job
from contest.rounds import Record
from hardware import heading

PACKAGES = ("torchvision", "lightning", "timm", "transformers", "datasets", "ultralytics-opencv-headless")
FROZEN_EPOCHS, LARGE_EPOCHS, JOB_EPOCHS = 20, 6, 4


@dataclass(frozen=True)
class Contest:
    """A question made ready: its job, who takes part, how its records are told."""

    title: str
    note: str
    job: Job
    who: list[Contestant]
    table: Callable[[Sequence[Record]], str] = tables.job_table


def same_job(a: argparse.Namespace) -> Contest:
    """The same network, data, length and settings for all."""
    data = laid_out(a)
    job = Job(data, epochs=a.epochs or JOB_EPOCHS, image_px=a.image_px, batch=a.batch)
    who = [
        contestants.floor(*photos.counts(data), batch=a.batch), Contestant(FANLIGHT),
        Contestant(f"{FANLIGHT} warm", keeps_cache=True), *contestants.peers("best"), *contestants.peers("newcomer"),
        Contestant("ultralytics nano", "with_ultralytics.py", "nano"),
    ]  # fmt: skip
    note = (
        f"ResNet-18 from scratch, {a.image_px} px, batch {a.batch}, {job.epochs} epochs with a validation each, AdamW, one "
        "split for all. Caches are empty at every start, except for `fanlight warm`. `ultralytics nano` trains a smaller "
        "network."
    )
    return Contest(f"The same job, {a.data.name}", note, job, who)


def large_photos(a: argparse.Namespace) -> Contest:
    """Photos as cameras make them: read as they are, or by the peers from copies made beforehand."""
    large = photos.make_large(a.data, a.work / f"large-{a.count}", count=a.count)
    small = photos.make_small(large, a.work / f"large-{a.count}-256px")
    train, val, classes = photos.counts(large)
    job = Job(large, epochs=a.epochs or LARGE_EPOCHS, image_px=a.image_px, batch=a.batch)
    whole = [
        replace(peer, more=("--no-cache",)) if peer.name.startswith("ultralytics") else peer
        for peer in contestants.peers("best", suffix="reading the photos")
    ]
    floor = contestants.floor(train, val, classes, batch=a.batch)
    who = [floor, Contestant(FANLIGHT), *contestants.peers("best", suffix="given 256 px", data=small), *whole]
    bytes_total = sum(path.stat().st_size for path in large.glob("*/*/*.jpg"))
    note = (
        f"{train + val:,} photos of 6 to 12 megapixels, {bytes_total / (train + val) / 1e6:.1f} MB each, {job.epochs} epochs "
        "of ResNet-18. Fanlight reads the photos. Peers, in their best version, read the photos, or copies with a short "
        "side of 256 px whose making is not counted."
    )
    return Contest("Large photos", note, job, who)


def own_recipes(a: argparse.Namespace) -> Contest:
    """Each trainer's documented recipe, network and length, to the accuracy that the best of the peers reaches."""
    data = photos.unpack_cifar(a.cifar, a.work / "cifar10") if a.cifar else laid_out(a)
    job = Job(data, epochs=a.epochs, image_px=32 if a.cifar else a.image_px, batch=a.batch)
    flags = ("--set", "train.evaluate_every=1", *(("--recipe", a.recipe) if a.recipe else ()))
    who = [Contestant(FANLIGHT, flags=flags), *contestants.peers("recipe")]
    train, val, _ = photos.counts(data)
    note = (
        f"{train:,} training and {val:,} validation images; a seed per round. What each recipe is, and where it is "
        "documented, stands in its script under benchmarks/peers/; Fanlight's is "
        + (f"`--recipe {a.recipe}`." if a.recipe else "what it chooses by itself.")
    )
    return Contest(f"Own recipes, {data.name if a.cifar else a.data.name}", note, job, who, table=tables.recipe_table)


def frozen_backbone(a: argparse.Namespace) -> Contest:
    """Fine-tuning the last layer over a backbone from another data set."""
    if a.backbone_data is None:
        raise SystemExit("--question frozen needs --backbone-data FOLDER, other images to train the backbone on")
    weights = backbone(a)
    data = laid_out(a)
    job = Job(data, epochs=a.epochs or FROZEN_EPOCHS, image_px=a.image_px, batch=a.batch, frozen=weights)
    who = [Contestant(FANLIGHT), *contestants.peers("best")]
    note = (
        f"ResNet-18 trained by Fanlight on {a.backbone_data.name} for {a.backbone_epochs} epochs; its last layer alone is "
        f"trained, {job.epochs} epochs with a validation each, centre crops without augmentation. Peers compute the "
        "features in every epoch, under no_grad where they can."
    )
    return Contest(f"Frozen backbone, {a.data.name}", note, job, who, table=tables.frozen_table)


QUESTIONS = {"job": same_job, "large": large_photos, "recipe": own_recipes, "frozen": frozen_backbone}


def laid_out(a: argparse.Namespace) -> Path:
    """The data's links, split once for everybody."""
    name = a.data.name + (f"-{a.limit}" if a.limit else "")
    return photos.lay_out(a.data, photos.split(a.data, limit=a.limit), a.work / name)


def backbone(a: argparse.Namespace) -> Path:
    """Weights of a ResNet-18 trained on the other data, made once."""
    run = a.work / f"backbone-{a.backbone_data.name}-{a.backbone_epochs}-{a.image_px}px"
    weights = run / "weights" / "last.safetensors"
    if not weights.exists():
        words = [
            sys.executable,
            "-m",
            "fanlight",
            "train",
            str(a.backbone_data),
            "--model",
            "resnet18",
            "--out",
            str(run),
        ]
        words += ["--image-size", str(a.image_px), "--epochs", str(a.backbone_epochs), "--device", "cpu", "--no-report"]
        words += ["--limit", str(a.limit * 8)] if a.limit else []
        subprocess.run(words, env=contestants.environment(a.work / "caches" / "backbone"), check=True)
    return weights


def contest_key(a: argparse.Namespace, job: Job) -> str:
    """Names what two runs must share to be compared; the same command gives the same name."""
    facts = {
        name: str(getattr(job, name))
        for name in ("data", "epochs", "image_px", "batch", "precision", "workers", "frozen")
    }
    asked = {"recipe": a.recipe, "cap_minutes": a.cap_minutes}
    digest = hashlib.sha256(json.dumps(facts | asked, sort_keys=True).encode()).hexdigest()[:8]
    return f"{a.question}-{job.data.name}-{digest}"


def best_precision() -> str:
    """What this machine trains in fastest: the peers' best versions get it told."""
    import torch

    from fanlight.train import precision

    return precision.fastest(torch.device("cpu"))[0]


def chosen(who: Sequence[Contestant], only: Sequence[str] | None) -> list[Contestant]:
    """Those that a word of `only` names, or, where it is nobody's whole name, those whose name it is a part of."""
    if only is None:
        return [*who]
    names = {one.name for one in who}
    return [one for one in who if any(one.name == word or (word not in names and word in one.name) for word in only)]


def hold(a: argparse.Namespace) -> None:
    contest = QUESTIONS[a.question](a)
    kept = a.work / "precision.txt"  # measured once, so that a continued contest does not change its mind
    if a.precision is None:
        if not kept.exists():
            kept.write_text(best_precision())
        a.precision = kept.read_text().strip()
    job = replace(contest.job, precision=a.precision, workers=a.workers)
    who = {one.name: one for one in chosen(contest.who, a.only)}
    names = [*who]
    key = contest_key(a, job)

    def run(number: int, name: str) -> Record:
        epochs = 1 if number == rounds.WARM_UP else job.epochs
        seed = a.seed + max(number, 0)
        cap_s = a.cap_minutes * 60 if a.cap_minutes else None
        return contestants.run(who[name], job, work=a.work / key, seed=seed, epochs=epochs, cap_s=cap_s)

    plan = rounds.plan(names, rounds=a.n, warm_up=a.warm_up)
    records = rounds.run_all(
        plan, a.work / "runs.jsonl", contest=key, run=run, say=lambda line: print(line, flush=True)
    )
    write(contest, records, a, key=key)


def write(contest: Contest, records: list[Record], a: argparse.Namespace, *, key: str) -> None:
    """The Markdown page and its figures."""
    a.out.mkdir(parents=True, exist_ok=True)
    stem = f"main-job-{key.rsplit('-', 1)[0]}_cpu_{date.today().isoformat()}"
    with contextlib.redirect_stdout(io.StringIO()) as page:
        print(heading(contest.title))
        versions = [f"{name} {metadata.version(name)}" for name in PACKAGES if _is_installed(name)]
        precision = f"The peers' best versions train in {a.precision}, with {a.workers} workers."
        print(f"{', '.join(versions)}. {precision}\n\n{contest.note} Order rotated from round to round.\n")
        print(contest.table(records))
        for kind, draw in (("time", plots.bars), ("accuracy", plots.curves)):
            draw(records, a.out / f"{stem}-{kind}.svg", title=contest.title)
            print(f"![{kind}]({stem}-{kind}.svg)\n")
    (a.out / f"{stem}.md").write_text(page.getvalue().rstrip() + "\n")
    print(page.getvalue())


def _is_installed(name: str) -> bool:
    try:
        metadata.version(name)
    except metadata.PackageNotFoundError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--question", choices=[*QUESTIONS], required=True)
    parser.add_argument("--data", type=Path, help="a folder with a folder of images per class")
    parser.add_argument("--cifar", type=Path, help="recipe: an archive of train/<class>/ and test/<class>/ instead")
    parser.add_argument("--backbone-data", type=Path, help="frozen: what the backbone is trained on")
    parser.add_argument("--backbone-epochs", type=int, default=12)
    parser.add_argument("--count", type=int, default=1000, help="large: photos to make")
    parser.add_argument("--recipe", default="", help="recipe: Fanlight's, by name; default: what it chooses by itself")
    parser.add_argument("--n", type=int, default=5, help="rounds; in recipe, seeds")
    parser.add_argument(
        "--epochs", type=int, help="default: 4 (job), 6 (large), 20 (frozen), each recipe's own (recipe)"
    )
    parser.add_argument("--image-px", type=int, default=128)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--limit", type=int, help="so many images of --data, equally many of each class")
    parser.add_argument("--only", nargs="+", help="contestants whose names contain one of these")
    parser.add_argument(
        "--precision", choices=("fp32", "bf16"), help="of the peers' best; default: what is fastest here"
    )
    parser.add_argument("--workers", type=int, default=2, help="of the peers' best")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--cap-minutes", type=float, help="end a run after this long, and count what it had reached")
    parser.add_argument("--no-warm-up", dest="warm_up", action="store_false", help="skip the uncounted first round")
    parser.add_argument("--work", type=Path, required=True, help="data, caches, logs and finished runs")
    parser.add_argument("--out", type=Path, default=Path(__file__).parent.parent / "results")
    a = parser.parse_args()
    if a.data is None and a.cifar is None:
        parser.error("say which images: --data FOLDER")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # as Ctrl-C: the run under way is ended, not left behind
    a.work = a.work.resolve()
    a.work.mkdir(parents=True, exist_ok=True)
    hold(a)


if __name__ == "__main__":
    main()
