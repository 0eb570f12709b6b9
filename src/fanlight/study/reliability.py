"""What a report says of probabilities: how far they can be believed, and by how much the temperature mends them. It is
recomputed from `predictions.parquet`, by the functions that training used. No torch; NumPy when a report is written."""

from typing import TYPE_CHECKING, Any

from fanlight.study.runs import headline_split

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


def section(predictions: "pa.Table | None", scores: dict[str, Any]) -> dict[str, Any]:
    """`calibration` of run.json, with a sentence per split, and the outputs of the headline's split; empty without
    logits of it. `scores` are by split."""
    split = headline_split(scores)
    if predictions is None or split is None:
        return {}
    from fanlight.tasks import calibration

    outputs = calibration.outputs(predictions, split=split)
    if outputs is None:
        return {}
    temperature, reason = calibration.fit(calibration.outputs(predictions, split="val"))
    found = calibration.of_run(dict.fromkeys(scores, predictions), temperature=temperature, reason=reason)
    said = [calibration.words(row, split=name) for name, row in found["splits"].items() if row]
    return {**found, "said": said, "outputs": outputs, "split": split, "bins": calibration.BINS}


def figure(found: dict[str, Any]) -> str | bytes:
    """The reliability diagram of a `section`: without and, where there is one, with the temperature. Of validation
    images, on which it was fitted, each half is drawn with the other half's."""
    from fanlight.study import figures
    from fanlight.tasks import calibration

    outputs = found["outputs"]
    temperatures: dict[str, float | np.ndarray] = {"as the network gives it": 1.0}
    if found["temperature"] != 1.0:
        crossed = found["split"] == "val"
        temperatures["calibrated"] = calibration.cross_fitted(outputs) if crossed else found["temperature"]
    sure = {name: calibration.confidence(outputs.logits_NK, value) for name, value in temperatures.items()}
    return figures.reliability({name: (calibration.bins(part, outputs.correct_N), part) for name, part in sure.items()})
