"""What is known of a file of weights before torch is imported."""

from pathlib import Path

from fanlight.errors import ConfigError

ENDINGS = (".safetensors", ".pt", ".pth")


def check(path: Path) -> None:
    """ConfigError where `path` cannot be one."""
    if not path.is_file():
        raise ConfigError(f"model.weights={path} is no file; give a .safetensors or .pt file")
    if path.suffix not in ENDINGS:
        raise ConfigError(f"model.weights={path} should end in {', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}")
