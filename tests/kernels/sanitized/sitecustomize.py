"""Makes Python import the compiled modules that environment variables name.

With this folder in PYTHONPATH, the tests and the processes they start run on a build with
sanitizers (`ASA_KERNELS_MODULE`) or with an emulated GPU (`ASA_CUDA_MODULE`), while everything else
stays as installed.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location

_VARIABLES = {
    "asa_engine._kernels": "ASA_KERNELS_MODULE",
    "asa_engine._cuda": "ASA_CUDA_MODULE",
}


class BuiltFinder:
    """Finds the modules that are named, where they were built."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return the spec of such a module; leave every other one to the finders that follow."""
        built = os.environ.get(_VARIABLES.get(name, ""))
        return spec_from_file_location(name, built) if built else None


sys.meta_path.insert(0, BuiltFinder)
