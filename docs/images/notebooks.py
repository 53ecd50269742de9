"""Pictures of the notebooks that the pages show: ``python docs/images/notebooks.py``.

The output of a cell that is tagged ``picture-NAME`` becomes ``docs/images/NAME.png``.
"""

import base64
import json
from pathlib import Path

HERE = Path(__file__).parent
SHOWN = ("path", "gtol")


def pictures():
    """Name and bytes of each."""
    for notebook in sorted((HERE.parent.parent / "notebooks").glob("*.ipynb")):
        for cell in json.loads(notebook.read_text())["cells"]:
            names = [tag.removeprefix("picture-") for tag in cell["metadata"].get("tags", ())]
            for output in cell.get("outputs", ()):
                for name in set(names) & set(SHOWN):
                    if "image/png" in output.get("data", {}):
                        yield name, base64.b64decode(output["data"]["image/png"])


if __name__ == "__main__":
    for name, picture in pictures():
        (HERE / f"{name}.png").write_bytes(picture)
