"""The problem sheet: every exercise of the chapters with its level and minutes, and without its solution.

    python book/problems.py   write book/written/problems.md

`book/_ext/written.py` calls this whenever the pages are built, so that sheet and chapters cannot differ.
"""

import re
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
CHAPTERS = HERE.parent / "notebooks"
WRITTEN = HERE / "written"
EXERCISE = re.compile(r"(?ms)^(`{3,})\{exercise\} (.+?) \(level (\d), (\d+) min\)\n:label: (\S+)\n(.*?)^\1$")
ANY = re.compile(r"(?m)^`{3,}\{exercise\}(.*)$")
TITLE = re.compile(r"(?m)^# (.+)$")


@dataclass(frozen=True)
class Problem:
    """An exercise: its chapter's file, its title, level, minutes, label and text."""

    file: str
    title: str
    level: int
    minutes: int
    label: str
    text: str


def problems(folder: Path = CHAPTERS) -> dict[str, list[Problem]]:
    """The exercises of each chapter, by its title, in reading order.

    Raises:
        ValueError: an exercise without a level or minutes in its title.
    """
    found: dict[str, list[Problem]] = {}
    for path in sorted(folder.glob("[0-9][0-9]_*.md")):
        source = path.read_text(encoding="utf-8")
        some = [
            Problem(path.stem, name, int(level), int(minutes), label, text.strip())
            for _, name, level, minutes, label, text in EXERCISE.findall(source)
        ]
        told = ANY.findall(source)
        if len(told) != len(some):
            raise ValueError(f"{path.name}: each exercise needs '(level N, M min)' after its title, but has {told}")
        title = TITLE.search(source)
        if some and title:
            found[title[1]] = some
    return found


def sheet(found: dict[str, list[Problem]]) -> str:
    """The page's list, in Markdown, with paths as seen from `book/`."""
    lines = []
    for title, some in found.items():
        lines.append(f"## {title}\n")
        for one in some:
            place = f"../notebooks/{one.file}.html#{one.label}"
            text = one.text.replace("](../book/", "](")
            text = re.sub(r"\]\((\d\d_\w+)", r"](../notebooks/\1", text)
            lines.append(f"**{one.title}** (level {one.level}, {one.minutes} min). {text}\n")
            lines.append(f'<a href="{place}">In the chapter, with its solution folded</a>\n')
    return "\n".join(lines)


def write(target: Path = WRITTEN) -> None:
    """Write the sheet."""
    target.mkdir(exist_ok=True)
    (target / "problems.md").write_text(sheet(problems()), encoding="utf-8")


if __name__ == "__main__":
    write()
