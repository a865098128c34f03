"""A canonical network, and which of ours must equal it."""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

from flaxarch.convert.rules import Rules

Size = tuple[int, int, int]  # images, height, width


@dataclass(frozen=True)
class Case:
    """One network of a library, ours for it, and at which sizes they are compared.

    `builder` is "module:function", imported only where the network itself is run. `golden` cases have a file
    of recorded outputs, and run in the default tests; all run against the library where it is installed.
    """

    builder: str
    args: tuple[Any, ...] = ()  # of the builder
    kwargs: dict[str, Any] = field(default_factory=dict)
    row: str = ""  # ours; by default the name of the case
    fields: dict[str, Any] = field(default_factory=dict)  # in which ours differs from its row
    rules: Rules | Callable[[Any], Rules] = field(kw_only=True)
    evaluation: tuple[Size, ...] = ((1, 224, 224), (1, 97, 113))
    training: Size = (4, 65, 65)
    num_classes: int = 1000
    channels: int = 3
    stages: dict[int, str] = field(default_factory=dict)  # stride -> module of the library that gives the map
    aux_weight: float = 0.0  # of each auxiliary loss
    golden: bool = False
    slow: bool = False  # golden, but not in the default tests: another case has most of it
    lax: bool = False  # in the default tests in lax's own forms: the CPU's of many groups compile long

    @property
    def library(self) -> str:
        """The module of this folder that runs it: `torch_library` or `keras_library`."""
        return "keras_library" if self.builder.startswith("keras") else "torch_library"

    @property
    def against(self) -> str:
        """What the network is compared with, in words."""
        package, _, name = self.builder.partition(":")
        package = package.split(".")[0]
        return "torch module" if package == "tests" else f"{package} `{name}`"

    def build(self, **kwargs: Any) -> Any:
        """The library's network, as its builder leaves it."""
        module, name = self.builder.split(":")
        return getattr(importlib.import_module(module), name)(*self.args, **self.kwargs, **kwargs)

    def but(self, **changes: Any) -> "Case":
        """The case with other values in some of its fields."""
        return replace(self, **changes)
