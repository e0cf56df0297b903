"""Take the README's picture from chapter 3: `python book/picture.py`, run by `make notebooks`."""

from base64 import b64decode
from pathlib import Path

import nbformat

ROOT = Path(__file__).resolve().parents[1]
SOURCE = ROOT / "notebooks" / "03_learning_the_trap.ipynb"
TARGET = ROOT / "book" / "images" / "trap.png"
FIGURE = "fig-learning-rollout"


def picture() -> bytes:
    """The PNG that the chapter stores for its rollouts."""
    for cell in nbformat.read(SOURCE, as_version=nbformat.NO_CONVERT).cells:
        if cell.metadata.get("mystnb", {}).get("figure", {}).get("name") == FIGURE:
            images = [output.data["image/png"] for output in cell.outputs if "data" in output]
            return b64decode(images[0])
    raise LookupError(f"{SOURCE.name} holds no figure {FIGURE!r}")


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    draft = TARGET.with_suffix(".tmp")
    draft.write_bytes(picture())
    draft.replace(TARGET)
