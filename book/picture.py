"""Take the README's picture from chapter 5: `python book/picture.py`, run by `make notebooks`."""

from pathlib import Path

from gallery import figures

TARGET = Path(__file__).resolve().parent / "images" / "trap.png"
FIGURE = "fig-learning-rollout"


def picture() -> bytes:
    """The PNG that the chapter stores for its rollouts."""
    return figures()[FIGURE].png


if __name__ == "__main__":
    TARGET.parent.mkdir(exist_ok=True)
    draft = TARGET.with_suffix(".tmp")
    draft.write_bytes(picture())
    draft.replace(TARGET)
