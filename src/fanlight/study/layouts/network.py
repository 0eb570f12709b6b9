"""The pieces of the studied network, counted once when a study begins: what a simulation of its steps is made of."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import Any

import torch

from fanlight import tasks
from fanlight.errors import FanlightError
from fanlight.models import freeze
from fanlight.plan import counting
from fanlight.study.layouts.recipe import Basis
from fanlight.train.step import listeners, tell_example

TIMES = ("forward", "backward")  # of a block: they come from the study's own points


def counted(about: Basis) -> dict[str, Any]:
    """`blocks`, as a document; or none, and the `reason`. A network that cannot be counted can be studied all the same."""
    config = about.config
    task = tasks.of(config, about.manifest)
    try:
        model = task.model(config.model.name or "", image_px=config.data.image_px or 0, seed=0).model
        if config.model.freeze:
            freeze.freeze(model)
        px, told = config.data.image_px or 0, listeners([model])
        if told:  # words beside the images, of which the meta device has none
            tell = partial(tell_example, task, told)
            found = counting.count_on(model, torch.zeros((counting.ROWS, 3, px, px)), tell=lambda rows: tell(rows=rows))
        else:
            found = counting.count(model, image_px=px)
    except (FanlightError, RuntimeError, ValueError) as error:  # of the network; others would be mistakes of ours
        words = (str(error).splitlines() or [type(error).__name__])[0]
        return {"blocks": [], "reason": f"the network's pieces could not be counted: {words}"}
    return {"blocks": [{k: v for k, v in asdict(each).items() if k not in TIMES} for each in found], "reason": ""}
