"""What to do when the pages are built: `python book/next.py _build/html/index.html`, run by `make html`."""

import sys
from pathlib import Path

NEXT = """The book is built.
  Read it: open {page} in a browser.
  Change it: write another number into the first cell of notebooks/00_quick.md, then
      .venv/bin/python notebooks/execute.py 00 && make html
  Bring your own particles: the page "Bring your data", or .venv/bin/ibvonns --help.
  Check a published number: .venv/bin/ibvonns scoreboard --study trap (trains eight seeds: 2 to 7 minutes)."""

if __name__ == "__main__":
    print(NEXT.format(page=Path(sys.argv[1]).resolve().as_uri()))
