"""Everything that needs a GPU, in one call of under 8 minutes: the tests marked `gpu`, the main job, and input beside
the synthetic-batch limit. Writes gpu.json and gpu.md to $OUT (or --out). Needs no network and no installed package:

    PYTHONPATH=src python benchmarks/gpu.py

Kernels of our own are a call of their own, as compiling them takes minutes: their tests, then `fanlight scratch bench`.

    PYTHONPATH=src python benchmarks/gpu.py --kernels
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

os.environ["PYTHONPATH"] = str(Path(__file__).resolve().parents[1] / "src")  # for the processes started here
sys.path.insert(0, os.environ["PYTHONPATH"])

CASES = (("resnet18", 128, 512), ("resnet18", 224, 256), ("resnet50", 128, 256), ("resnet50", 224, 256))
IMAGES = 8_700  # synthetic photos of 200 px; enough that epochs do not end within a block


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(os.environ.get("OUT", "scratch/gpu")))
    parser.add_argument("--data", help="class folders; default: synthetic pictures made in --out's temporary folder")
    parser.add_argument("--skip-tests", action="store_true")
    parser.add_argument("--kernels", action="store_true", help="kernels of our own, and nothing else")
    arguments = parser.parse_args()
    import torch

    if not torch.cuda.is_available():
        sys.exit("no GPU is visible to torch; nothing was measured")
    arguments.out.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix="fanlight-gpu-"))
    os.environ["FANLIGHT_CACHE"] = str(work / "cache")
    if arguments.kernels:
        _kernels(arguments.out, is_tested=not arguments.skip_tests)
        return
    found: dict[str, Any] = {}
    if not arguments.skip_tests:
        found["tests"] = _tests("--ignore", "tests/kernels", timeout_s=200)
    found["main_job"] = [_main_job(work / f"run-{layout}", layout) for layout in ("serial",)]
    found["layouts"] = _layouts(work / "verify")
    found["input"] = _input(arguments.data or _pictures(work))
    (arguments.out / "gpu.json").write_text(json.dumps(found, indent=1))
    (arguments.out / "gpu.md").write_text(_markdown(found))
    print((arguments.out / "gpu.md").read_text())


def _tests(*words: str, timeout_s: float) -> dict[str, Any]:
    begin = time.time()
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-q", "-p", "no:cacheprovider", *words]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
    except subprocess.TimeoutExpired:
        return {"exit": None, "line": f"not done after {timeout_s:.0f} s", "seconds": timeout_s}
    print(answer.stdout[-3000:], answer.stderr[-1000:])
    return {"exit": answer.returncode, "line": answer.stdout.strip().splitlines()[-1], "seconds": time.time() - begin}


def _kernels(out: Path, *, is_tested: bool) -> None:
    """Tests to kernels_tests.json, times to the folder `bench`; what time does not allow is named there."""
    begin = time.time()
    if is_tested:
        (out / "kernels_tests.json").write_text(json.dumps(_tests("tests/kernels", timeout_s=300), indent=1))
    words = [
        "--ops",
        "kernels",
        "--backends",
        "triton,torch",
        "--formats",
        "bf16",
        "--rounds",
        "5",
        "--out",
        str(out / "bench"),
    ]
    left_s = 450 - (time.time() - begin)
    subprocess.run(
        [sys.executable, "-m", "fanlight", "scratch", "bench", *words, "--time-limit", f"{left_s:.0f}s"], check=True
    )


def _main_job(run: Path, layout: str) -> dict[str, Any]:
    command = [sys.executable, "-m", "fanlight", "train", "digits", "--json", "--layout", layout, "--out", str(run)]
    answer = subprocess.run(command, stdout=subprocess.PIPE, text=True, timeout=120, check=True)
    return json.loads(answer.stdout)


def _layouts(run: Path) -> dict[str, Any]:
    """Every layout against serial, two ranks; where there is one GPU they share it, over gloo."""
    command = [
        sys.executable,
        "-m",
        "fanlight",
        "verify",
        "digits",
        "--model",
        "small-resnet",
        "--ranks",
        "2",
        "--steps",
        "5",
    ]
    shared = {**os.environ, "FANLIGHT_SHARE_GPU": "1"}
    answer = subprocess.run(
        [*command, "--device", "cuda", "--out", str(run), "--json"],
        stdout=subprocess.PIPE,
        text=True,
        timeout=240,
        env=shared,
    )
    return json.loads(answer.stdout) if answer.stdout else {"error": f"exit code {answer.returncode}"}


def _pictures(work: Path) -> str:
    from loader_memory import make_images

    make_images(work, count=IMAGES)
    return str(work / "images")


def _input(data: str) -> list[dict[str, Any]]:
    from input_wait import measure

    rows = []
    for model, image_px, batch in CASES:
        sums = measure(data, model=model, image_px=image_px, batch=batch, blocks=8, steps=10)
        rows.append({"model": model, "image_px": image_px, "batch": batch, **sums})
    return rows


def _markdown(found: dict[str, Any]) -> str:
    from hardware import heading

    lines = [heading("On a GPU")]
    if "tests" in found:
        lines.append(f"Tests marked gpu: {found['tests']['line']}\n")
    for job in found["main_job"]:
        accuracy = job["metrics"]["val"]["accuracy"]
        lines.append(
            f"`fanlight train digits --layout {job['layout']}`: {job['wall_s']:.1f} s from Enter, accuracy {accuracy:.4f}, "
            f"{job['images_per_s']:.0f} img/s, {job['precision']}\n"
        )
    if "layouts" in found["layouts"]:
        from fanlight.train import certificate

        lines.append(certificate.markdown(found["layouts"]).replace("# ", "## ", 1))
    else:
        lines.append(f"Layouts: {found['layouts']['error']}\n")
    lines.append(
        "Steps from the pack beside the same step on one batch in memory, bf16, alternating, n = 8 pairs of 10:\n"
    )
    lines.append("| model | px | batch | img/s, loader | img/s, in memory | ratio | 95 % interval | input wait |")
    lines.append("|---|--:|--:|--:|--:|--:|--:|--:|")
    for row in found["input"]:
        ratio, low, high = row["ratio"]
        lines.append(
            f"| {row['model']} | {row['image_px']} | {row['batch']} | {row['loader_images_per_s'][0]:.0f} | "
            f"{row['memory_images_per_s'][0]:.0f} | {ratio:.3f} | {low:.3f} … {high:.3f} | {row['input_wait_share'][0]:.1%} |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
