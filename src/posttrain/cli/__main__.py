"""``python -m posttrain.cli``: the command line without its installed script."""

from __future__ import annotations

import sys

from posttrain.cli import main

sys.exit(main())
