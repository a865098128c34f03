"""The reference's names: all that a package exports, or those that are named."""

import re
from importlib import import_module
from types import ModuleType

# <!-- names of PACKAGE --> or <!-- names of MODULE: NAME NAME -->
_MARK = re.compile(r"^<!-- names of ([\w.]+)(?:: ([\w ]+))? -->$", re.MULTILINE)


def with_names(markdown: str) -> str:
    """The page with what mkdocstrings reads in the place of its marks."""
    return _MARK.sub(_expanded, markdown)


def _expanded(mark: re.Match[str]) -> str:
    module = import_module(mark[1])
    names = mark[2].split() if mark[2] else sorted(module.__all__, key=str.lower)
    return "\n\n".join(f"::: {_home(module, name)}" for name in names)


def _home(module: ModuleType, name: str) -> str:
    """Where a name is from: `flaxarch.functional` is a function, and the module that it is in."""
    value = getattr(module, name)
    home = getattr(value, "__module__", "")
    if home.split(".")[0] in ("flaxarch", "train") and getattr(value, "__qualname__", "") == name:
        return f"{home}.{name}"
    return f"{module.__name__}.{name}"
