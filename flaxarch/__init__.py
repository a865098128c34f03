"""flaxarch: deep convolutional networks in JAX and Flax, numerically equal to the originals.

The library, and JAX with it, is imported when one of its names is first used: the command line answers
`--help` without it.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flaxarch.analysis import cost
    from flaxarch.convert import load, save, to_torch
    from flaxarch.functional import features, functional
    from flaxarch.preprocess import preprocess
    from flaxarch.registry import create, list_models, published
    from flaxarch.transfer import estimate_batch_stats, freeze_batch_norm, label_params

__all__ = [
    "cost",
    "create",
    "estimate_batch_stats",
    "features",
    "freeze_batch_norm",
    "functional",
    "label_params",
    "list_models",
    "load",
    "preprocess",
    "published",
    "save",
    "to_torch",
]
_HOMES = {
    "cost": "analysis",
    "create": "registry",
    "estimate_batch_stats": "transfer",
    "features": "functional",
    "freeze_batch_norm": "transfer",
    "functional": "functional",
    "label_params": "transfer",
    "list_models": "registry",
    "load": "convert",
    "preprocess": "preprocess",
    "published": "registry",
    "save": "convert",
    "to_torch": "convert",
}


class _Package(ModuleType):
    """This package, of which `functional` and `preprocess` are the functions, not the modules they are in."""

    def __setattr__(self, name: str, value: Any) -> None:
        if name in _HOMES and isinstance(value, ModuleType):
            return  # an import of the submodule, which binds it here
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package


def __getattr__(name: str) -> Any:
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in _HOMES:
        value = globals()[name] = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
        return value
    module = f"{__name__}.{name}"  # a submodule, such as `flaxarch.convert`
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name != module:
            raise
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}") from error


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
