"""Recipes: one run per YAML file, shipped with the package. Its first comment says command, result, hardware, date."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from fanlight import config as configuration
from fanlight.config import Config
from fanlight.errors import ConfigError, near

FOLDER = Path(__file__).parent


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def find(name: str) -> Path:
    """The file of a recipe given by name or path."""
    if Path(name).suffix in (".yaml", ".yml"):
        return Path(name)
    if name not in names():
        raise ConfigError(f"--recipe {name!r} does not exist; there are {', '.join(names())}.{near(name, names())}")
    return FOLDER / f"{name}.yaml"


def assemble(
    data: str, *, recipe: str | None, config: Path | None, flags: Mapping[str, object], values: Iterable[str]
) -> Config:
    """Defaults < recipe < config file < flags (None: not given) < `section.field=value` texts. A flag that names a file of
    weights takes the place of published weights that a recipe or file asks for, and the other way round."""
    result = Config()
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
