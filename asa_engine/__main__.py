"""`python -m asa_engine` is `asa-engine`."""

from __future__ import annotations

import sys

from asa_engine.cli.main import main

sys.exit(main())
