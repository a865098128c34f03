"""Examples in docstrings, for the reference: code, where Markdown would see quotations."""

from typing import Any

from griffe import Extension, Object

from benchmarks.site.text import fenced


class Doctests(Extension):
    """Changes docstrings as they are read."""

    def on_object(self, *, obj: Object, **kwargs: Any) -> None:
        """One object's docstring."""
        del kwargs
        if obj.docstring is not None:
            obj.docstring.value = fenced(obj.docstring.value)
