"""Registries: parts that are found by name because their file lies in the right folder.

    ENGINES = Registry("speech engine", "extractors.speech.engines")
    @ENGINES.register("faster-whisper")
    class ...

A new part is one new file in that package; it registers itself when the registry imports the folder on first look-up.
Modules in such folders import their heavy libraries inside functions, so looking up a name stays cheap.
"""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable
from typing import Any

from data.errors import LambError


class UnknownName(LambError):
    """A name that no registered part has."""

    default_code = "unknown_name"


class Registry:
    """Names → parts of one kind, discovered in one package."""

    def __init__(self, kind: str, package: str) -> None:
        self.kind = kind
        self.package = package
        self._parts: dict[str, Any] = {}
        self._discovered = False

    def register(self, name: str) -> Callable[[Any], Any]:
        """Decorator that files a class or function under ``name``. Raises ValueError if the name is taken."""

        def keep(part: Any) -> Any:
            if name in self._parts and self._parts[name] is not part:
                raise ValueError(f"Expected a free {self.kind} name but {name!r} is taken")
            self._parts[name] = part
            return part

        return keep

    def names(self) -> list[str]:
        if not self._discovered:
            package = importlib.import_module(self.package)
            for module in pkgutil.iter_modules(package.__path__):
                importlib.import_module(f"{self.package}.{module.name}")
            self._discovered = True
        return sorted(self._parts)

    def get(self, name: str) -> Any:
        """The part called ``name``. Raises UnknownName with the nearest match."""
        names = self.names()
        if name not in self._parts:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"Did you mean {near[0]!r}?" if near else None
            raise UnknownName(f"Expected a {self.kind} among {', '.join(names)} but got {name!r}.", remedy=hint)
        return self._parts[name]
