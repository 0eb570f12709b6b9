"""Starts of a study, and where it may go on."""

from pathlib import Path
from typing import Any

import pytest

from fanlight.errors import ConfigError
from fanlight.study.layouts import sessions

HERE: dict[str, Any] = {
    "started": "2026-01-02T00:00:00+00:00", "command": "fanlight study --resume s", "fanlight": "0.2",
    "machine": {"cpu": "a processor", "cores_usable": 8, "memory_bytes": 1}, "versions": {"torch": "2.15.0", "numpy": "2"},
}  # fmt: skip
PLAN = {
    **HERE,
    "started": "2026-01-01T00:00:00+00:00",
    "command": "fanlight study photos",
    "fanlight": "0.1",
    "points": [],
}


def test_a_study_from_before_has_its_first_start():
    first = sessions.of(PLAN)
    assert first == [{key: PLAN[key] for key in sessions.KEYS}]
    assert sessions.of(PLAN | {"sessions": [*first, HERE]}) == [*first, HERE]


@pytest.mark.parametrize(
    ("section", "key", "value", "said"),
    [
        ("machine", "cpu", "another", "the processor: a processor then, another now"),
        ("machine", "cores_usable", 4, "usable cores: 8 then, 4 now"),
        ("versions", "torch", "2.16.0", "torch: 2.15.0 then, 2.16.0 now"),
        ("versions", "gpu", "a GPU", "the GPU: none then, a GPU now"),
        ("versions", "gpus", 2, "visible GPUs: none then, 2 now"),
    ],
)
def test_another_machine_or_torch_is_refused_by_name(section, key, value, said):
    there = HERE | {section: HERE[section] | {key: value}}
    with pytest.raises(ConfigError, match=f"--resume s was measured elsewhere.*{said}.*begin a study of this machine"):
        sessions.check(PLAN, there, study=Path("s"))
    with pytest.raises(ConfigError, match="then"):  # of the first start, whoever went on in between
        sessions.check(PLAN | {"sessions": [*sessions.of(PLAN), there]}, there, study=Path("s"))


def test_what_decides_no_rate_may_differ():
    machine = HERE["machine"] | {"memory_bytes": 2}
    sessions.check(PLAN, HERE | {"machine": machine, "versions": HERE["versions"] | {"numpy": "3"}}, study=Path("s"))


def test_a_study_from_before_gpus_were_counted_goes_on():
    begun = HERE["versions"] | {"gpu": "a GPU"}
    there = HERE | {"versions": begun | {"gpus": 2}}
    sessions.check(PLAN | {"versions": begun}, there, study=Path("s"))
    with pytest.raises(ConfigError, match="visible GPUs: 1 then, 2 now"):
        sessions.check(PLAN | {"versions": begun | {"gpus": 1}}, there, study=Path("s"))
