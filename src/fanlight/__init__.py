"""Fanlight trains image models in parallel: a folder of images in, a trained, evaluated classifier out.

import fanlight
run = fanlight.train("photos/", epochs=10)
print(run.accuracy, fanlight.predict(run, ["new.jpg"]))
"""

import importlib
from types import ModuleType
from typing import Any

__version__ = "0.1.0"
__all__ = ["Run", "__version__", "evaluate", "load", "open", "predict", "train"]


def __getattr__(name: str) -> Any:
    """The functions of fanlight.api, imported when first used: `import fanlight` costs nothing."""
    if name in __all__:
        from fanlight import api

        return getattr(api, name)
    raise AttributeError(f"module 'fanlight' has no attribute {name!r}")


class _Train(ModuleType):
    """`fanlight.train` is a package and a function, `api.train`: Python sets the one here when it is first imported, so it
    can be called as the other."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        from fanlight import api

        return api.train(*arguments, **options)


importlib.import_module("fanlight.train").__class__ = _Train
