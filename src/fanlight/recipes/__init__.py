"""Recipes: one run per YAML file, shipped with the package. Its first comment says command, result, hardware, date.

`studies/` holds those of `fanlight study`: all that one reference project compared, part by part (study/projects)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from fanlight import config as configuration
from fanlight.config import Config
from fanlight.errors import ConfigError, near

FOLDER = Path(__file__).parent
YAML = (".yaml", ".yml")


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def studies() -> list[str]:
    """Names of the recipes of `fanlight study`."""
    return sorted(path.stem for path in (FOLDER / "studies").glob("*.yaml"))


def find(name: str) -> Path:
    """The file of a recipe given by name or path."""
    if Path(name).suffix in YAML:
        return Path(name)
    if name in studies():
        raise ConfigError(f"--recipe {name} is of a study, not of one training: fanlight study DATA --recipe {name}")
    if name not in names():
        raise ConfigError(f"--recipe {name!r} does not exist; there are {', '.join(names())}.{near(name, names())}")
    return FOLDER / f"{name}.yaml"


def find_study(name: str) -> tuple[Path, bool]:
    """The file that `fanlight study --recipe` names, and whether it is of a whole study: else one training's, of which the
    usual grid is made."""
    if Path(name).suffix in YAML:
        path = Path(name)
        try:
            return path, re.search(r"^parts\s*:", path.read_text(encoding="utf-8"), re.MULTILINE) is not None
        except (OSError, ValueError):
            return path, False  # whoever reads it as a config says what is wrong
    if name in names():
        return find(name), False
    if name not in studies():
        known = [*studies(), *names()]
        raise ConfigError(f"--recipe {name!r} does not exist; there are {', '.join(known)}.{near(name, known)}")
    return FOLDER / "studies" / f"{name}.yaml", True


def assemble(
    data: str, *, recipe: str | None, config: Path | None, flags: Mapping[str, object], values: Iterable[str],
    under: Config | None = None,
) -> Config:  # fmt: skip
    """Defaults, or `under` < recipe < config file < flags (None: not given) < `section.field=value` texts. A flag that names
    a file of weights takes the place of published weights that a recipe or file asks for, and the other way round."""
    result = under or Config()
    for path in ([find(recipe)] if recipe is not None else []) + ([config] if config else []):
        result = configuration.read(path, under=result)
    given = {key: value for key, value in flags.items() if value is not None}
    if "model.weights" in given:
        given = {"model.pretrained": False, **given}
    elif given.get("model.pretrained"):
        given = {"model.weights": None, **given}
    result = result.with_values(given)
    for text in values:
        key, sign, value = text.partition("=")
        if not sign:
            raise ConfigError(f"--set {text!r} should read section.field=value, such as optim.momentum=0.8")
        result = result.with_value(key.strip(), value.strip())
    return result.with_value("data.path", data) if data else result
