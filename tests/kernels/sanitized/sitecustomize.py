"""Makes Python import the compiled kernels that `ASA_KERNELS_MODULE` names.

With this folder in PYTHONPATH, the tests and the processes they start run on a build with
sanitizers, while everything else stays as installed.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_file_location


class KernelsFinder:
    """Finds one module, at one place."""

    @staticmethod
    def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return the spec of the kernels; leave every other module to the finders that follow."""
        if name != "asa_engine._kernels":
            return None
        return spec_from_file_location(name, os.environ["ASA_KERNELS_MODULE"])


sys.meta_path.insert(0, KernelsFinder)
