"""Exits 1 and names every notebook that holds outputs or execution counts."""

import json
import sys
from pathlib import Path


def dirty_notebooks(folder: Path) -> list[str]:
    found = []
    for file in sorted(folder.glob("*.ipynb")):
        cells = [c for c in json.loads(file.read_text())["cells"] if c["cell_type"] == "code"]
        if any(cell["outputs"] or cell["execution_count"] for cell in cells):
            found.append(file.name)
    return found


if __name__ == "__main__":
    names = dirty_notebooks(Path(__file__).parent.parent / "notebooks")
    for name in names:
        print(f"notebooks/{name} holds outputs: clear them before committing", file=sys.stderr)
    sys.exit(bool(names))
