"""Whether captions of scenes are true: each is read back to facts, which are compared with those of its scene."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fanlight.data.shapes.reading import parse
from fanlight.data.shapes.scene import UNSEEN, Fact, Scene, facts, required
from fanlight.data.shapes.write import SCENES, VERSION
from fanlight.errors import DataError


def scenes_of(root: Path) -> dict[str, Scene] | None:
    """Path of each image -> its scene; None where `root` is another data set. DataError where its scenes are damaged."""
    path = root / SCENES
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from None
    except ValueError:
        raise DataError(f"{path} is damaged; {_AGAIN}") from None
    try:
        if document["version"] != VERSION:
            raise DataError(f"{path} is of version {document['version']!r}, not {VERSION}; {_AGAIN}")
        return {name: Scene.of_json(each) for name, each in document["scenes"].items()}
    except (AttributeError, KeyError, TypeError):
        raise DataError(f"{path} is damaged; {_AGAIN}") from None


_AGAIN = "remove the folder with `fanlight cache clear`, and it is written anew"


@dataclass(frozen=True)
class Judged:
    """What was found of N captions."""

    is_true: np.ndarray  # bool [N]: every fact that it states is so, and all of it can be read
    is_complete: np.ndarray  # bool [N]: it states all that is required
    is_readable: np.ndarray  # bool [N]: no word of it is unknown, or stands where it makes no sense
    has_unseen: np.ndarray  # bool [N]: its scene has a pair of colour and shape that training lacks
    things: np.ndarray  # int64 [N], in its scene
    stated: dict[str, tuple[int, int]]  # what facts are of -> how many are stated, how many of these are so

    @property
    def true_and_complete(self) -> np.ndarray:
        return self.is_true & self.is_complete

    def shares(self) -> dict[str, float | int]:
        """Of all captions: the headline `true_and_complete`, its two halves, and both by what the scenes have."""
        both = self.true_and_complete
        found: dict[str, float | int] = {
            "count": len(both), "true_and_complete": _mean(both), "only_true": _mean(self.is_true),
            "complete": _mean(self.is_complete), "readable": _mean(self.is_readable),
        }  # fmt: skip
        for name, chosen in (("seen_pairs", ~self.has_unseen), ("unseen_pairs", self.has_unseen)):
            if chosen.any():
                found[f"true_and_complete_{name}"] = _mean(both[chosen])
        for number in np.unique(self.things).tolist():
            found[f"true_and_complete_of_{number}"] = _mean(both[self.things == number])
        for what, (stated, so) in sorted(self.stated.items()):
            found[f"true_{what}"] = so / stated
        return found


def judged(scenes: Mapping[str, Scene], paths: Sequence[str], captions: Sequence[str]) -> Judged:
    """Each caption against the scene of its image. DataError that names an image without one."""
    columns: list[tuple[bool, bool, bool, bool, int]] = []
    stated: dict[str, tuple[int, int]] = {}
    for path, caption in zip(paths, captions, strict=True):
        if path not in scenes:
            raise DataError(f"{path} is no image of shapes: {SCENES} has no scene of it; {_AGAIN}")
        scene, found = scenes[path], parse(caption)
        so, is_readable = facts(scene), not found.unread
        for fact in found.facts:
            number, true = stated.get(fact[0], (0, 0))
            stated[fact[0]] = (number + 1, true + (fact in so))
        has_unseen = any(kind in UNSEEN for kind in scene.kinds)
        columns.append(
            (
                is_readable and found.facts <= so,
                required(scene) <= found.facts,
                is_readable,
                has_unseen,
                len(scene.things),
            )
        )
    values = np.array(columns, np.int64).reshape(-1, 5)
    is_true, is_complete, is_readable_N, has_unseen_N = (values[:, place].astype(bool) for place in range(4))
    return Judged(is_true, is_complete, is_readable_N, has_unseen_N, values[:, 4], stated)


def elsewhere(scenes: Mapping[str, Scene], paths: Sequence[str], captions: Sequence[str]) -> np.ndarray:
    """float64 [N]: of what share of the other images each caption would be right. Its mean is what shuffled images give, over
    all shuffles: the chance of a caption that was written without looking. 0 where there is no other image.

    Scenes of which the same is required are asked together, those of equal facts are one, and so are equal captions: all pairs
    of a training split would take minutes."""
    own = [(required(scenes[path]), facts(scenes[path])) for path in paths]
    alike: dict[frozenset[Fact], Counter[frozenset[Fact]]] = {}
    for wanted, so in own:
        alike.setdefault(wanted, Counter())[so] += 1
    reads = {text: parse(text) for text in set(captions)}
    everywhere = {text: 0 if found.unread else _right_of(alike, found.facts) for text, found in reads.items()}
    right = np.zeros(len(paths))
    for number, (text, (wanted, so)) in enumerate(zip(captions, own, strict=True)):
        is_right_here = not reads[text].unread and wanted <= reads[text].facts <= so
        right[number] = everywhere[text] - is_right_here
    return right / max(1, len(paths) - 1)


def _right_of(alike: Mapping[frozenset[Fact], Counter[frozenset[Fact]]], stated: frozenset[Fact]) -> int:
    """Of how many scenes a caption is right that states this; `alike`: what is required -> the facts of scenes, how often."""
    fitting = [scenes for wanted, scenes in alike.items() if wanted <= stated]
    return sum(count for scenes in fitting for so, count in scenes.items() if stated <= so)


def _mean(values: np.ndarray) -> float:
    return float(values.mean()) if len(values) else float("nan")
