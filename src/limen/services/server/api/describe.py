"""Write the API's description: `python -m limen.services.server.api.describe docs/reference/api`.

A test fails when the stored one is stale.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from limen.services.server.api.app import build_app

FILE = "openapi.json"


def description() -> str:
    """The OpenAPI document as it is stored."""
    return json.dumps(build_app(None).openapi(), indent=1, ensure_ascii=False) + "\n"


def main(directory: Path) -> None:
    """Write it into `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / FILE).write_text(description(), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
