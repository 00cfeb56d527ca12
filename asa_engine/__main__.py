"""`python -m asa_engine` is `asa-engine`."""

from __future__ import annotations

import sys

from asa_engine.cli.entry import main

if __name__ == "__main__":
    sys.exit(main())
