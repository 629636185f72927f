"""Packages that are also verbs: ``posttrain.train`` holds the training code and can be called.

Python binds a package's name in its parent as soon as anything below it is imported, so a function of the same name
would vanish at that moment. Making the package itself callable keeps both meanings.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

_DEFINED_IN = "posttrain.pipeline.api"


class Verb(ModuleType):
    """A module that, when called, calls the function of its name in the public API."""

    _defined_in: str

    def __call__(self, *arguments: Any, **settings: Any) -> Any:
        """See the function of the same name in `posttrain.pipeline`."""
        api = importlib.import_module(self._defined_in)
        return getattr(api, self.__name__.rpartition(".")[2])(*arguments, **settings)


def make_callable(name: str, defined_in: str = _DEFINED_IN) -> None:
    """Make a package callable.

    Args:
        name: Its ``__name__``; called from its ``__init__``.
        defined_in: The module that holds the function.
    """
    package = sys.modules[name]
    package.__class__ = Verb
    vars(package)["_defined_in"] = defined_in
