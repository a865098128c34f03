"""`benchmarks/results/weights.json`, which several commands add to."""

import fcntl
import json
from pathlib import Path
from typing import Any

KEPT = Path(__file__).parents[1] / "results" / "weights.json"


def read() -> dict[str, Any]:
    """All that was kept: "pairs", "catalogue" and "keys"."""
    return json.loads(KEPT.read_text(encoding="utf-8")) if KEPT.exists() else {}


def keep(part: str, name: str, found: dict[str, Any]) -> None:
    """Put what was found of `name` into a part, over what stood there under the same keys."""
    with KEPT.open("a+", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)  # several may run at once
        file.seek(0)
        kept = json.loads(file.read() or "{}")
        entries = kept.setdefault(part, {})
        entries[name] = entries.get(name, {}) | found
        file.truncate(0)
        file.write(json.dumps(kept, indent=1, sort_keys=True) + "\n")
