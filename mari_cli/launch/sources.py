"""Hydra's sources of the configs that come with mari, each read once in a process instead of once in a run.

Each class has the name of Hydra's own class, so that the processes of a launcher keep it registered.
"""

import copy
from typing import Any, Self

from hydra._internal.core_plugins.importlib_resources_config_source import (
    ImportlibResourcesConfigSource as HydraPackage,
)
from hydra._internal.core_plugins.structured_config_source import StructuredConfigSource as HydraSchemas
from hydra.plugins.config_source import ConfigResult

_read: dict[tuple[str, str], ConfigResult] = {}
"""What the files of a package say, by the package and the path inside it."""


class ImportlibResourcesConfigSource(HydraPackage):
    """The files of a package. To read them again takes a third of the time that composing takes."""

    def load_config(self, config_path: str) -> ConfigResult:
        key = (self.path, config_path)
        if key not in _read:
            _read[key] = super().load_config(config_path)
        return copy.deepcopy(_read[key])  # Hydra takes the list of defaults out of the result


class StructuredConfigSource(HydraSchemas):
    """The schemas. Hydra copies its sources for each run, and a copy of this one would copy every schema."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self
