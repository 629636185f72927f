"""Packages that are also verbs: ``posttrain.train`` holds the training code and can be called.

Python binds a package's name in its parent as soon as anything below it is imported, so a function of the same name
would vanish at that moment. Making the package itself callable keeps both meanings.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any


class Verb(ModuleType):
    """A module that, when called, calls the function of its name in the public API."""

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        """See the function of the same name in `posttrain.pipeline.api`."""
        api = importlib.import_module("posttrain.pipeline.api")
        return getattr(api, self.__name__.rpartition(".")[2])(*arguments, **settings)


def make_callable(name: str) -> None:
    """Make the package `name` (its ``__name__``, called from its ``__init__``) callable."""
    sys.modules[name].__class__ = Verb
