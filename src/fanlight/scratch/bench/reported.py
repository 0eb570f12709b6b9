"""What the reference project reported of its CNN from scratch on a Tesla T4: loops and NumPy on that machine's CPU, two
versions in CUDA on the GPU. Seconds of its own clock, for as many repetitions as it made; only ratios over
its NumPy compare with ours.
"""

from typing import Any

VERSIONS = ("loops", "NumPy", "CUDA", "CUDA, shared memory")
REPORTED: list[dict[str, Any]] = [
    {
        "op": "convolution", "direction": "forward and backward", "shape": "32×16×100×100, 32 of 3×3",
        "seconds": [226.0, 36.9, 0.974, 0.472], "note": "its gradients are wrong",
    },
    {
        "op": "pooling", "direction": "forward", "shape": "64×32×200×200, 2×2",
        "seconds": [19.0, 9.0, 0.551, 0.517], "note": "",
    },
    {
        "op": "dense", "direction": "forward", "shape": "256×10,000 → 1,024",
        "seconds": [0.292, 0.292, 0.289, 0.289], "note": "four figures that hardly differ, as if one call stood behind all",
    },
    {
        "op": "step", "direction": "3 epochs of MNIST", "shape": "128×1×28×28",
        "seconds": [None, 3857.0, 122.0, 96.0], "note": "loops were not finished",
    },
]  # fmt: skip


def beside(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Theirs with what was measured here of the same op: [{op, direction, shape, note, theirs, ours}], each a list of
    {version, seconds, ratio}; the ratio is how many times as fast as NumPy, theirs over theirs and ours over ours."""
    found = []
    rows = [row for row in rows if row["format"] == "fp32"]  # as theirs; times of two formats would be added
    for each in REPORTED:
        numpy_s = each["seconds"][1]
        theirs = [
            {"version": name, "seconds": seconds, "ratio": None if seconds is None else numpy_s / seconds}
            for name, seconds in zip(VERSIONS, each["seconds"])
        ]
        directions = ["forward", "backward"] if each["op"] == "convolution" else ["forward", "step"]
        ours: dict[str, list[float]] = {}
        for row in rows:
            if row["op"] == each["op"] and row["direction"] in directions and row["ms"] is not None:
                ours.setdefault(row["backend"], []).append(row["ms"] / 1e3)
        whole = {name: sum(parts) for name, parts in ours.items() if each["op"] != "convolution" or len(parts) == 2}
        base = next((seconds for name, seconds in whole.items() if name.startswith("numpy")), None)
        found.append({
            **{key: each[key] for key in ("op", "direction", "shape", "note")}, "theirs": theirs,
            "ours": [{"version": name, "seconds": seconds, "ratio": None if base is None else base / seconds}
                     for name, seconds in whole.items()],
        })  # fmt: skip
    return found
