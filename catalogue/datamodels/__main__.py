"""``python -m catalogue.datamodels DIRECTORY``: write the documentation pages of the shipped products."""

from __future__ import annotations

import sys
from pathlib import Path

from catalogue.datamodels.documentation import write_documentation

if __name__ == "__main__":
    for path in write_documentation(Path(sys.argv[1] if len(sys.argv) > 1 else "docs/datamodels")):
        print(path)
