"""Results of commands as tests compare them with those of the Python API."""

from __future__ import annotations

import json
from typing import Any


def without_times(result: Any) -> dict[str, Any]:
    """As JSON has it, without what no two calls share."""
    plain = json.loads(json.dumps(result))
    return {key: value for key, value in plain.items() if key not in ("seconds", "energy")}
