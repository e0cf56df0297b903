"""A Sphinx extension: addresses of earlier editions lead to where the text now is.

`book/moved.json` tells which page has become which, and which section has become which where its name changed. A page
that is no more gets a small one in its place, which leads on and takes the place in the page along. Of a page that was
split, places that it has no more are looked for in the others.
"""

import json
import re
from pathlib import Path
from typing import Any

from sphinx.application import Sphinx

TABLE = Path(__file__).parents[1] / "moved.json"
STUB = """<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>This page has moved</title>
<link rel="canonical" href="{there}"><noscript><meta http-equiv="refresh" content="0; url={there}"></noscript>
<script>window.ibvMovedTo = {there_script};</script><script src="{root}_static/moved.js"></script></head>
<body><p>This page is now <a href="{there}">{title}</a>.</p></body></html>
"""
SCRIPT = """// where places of earlier editions now are; written by book/_ext/moved.py
(() => {
  const places = %s;
  const root = document.currentScript.src.replace(/_static\\/moved\\.js.*$/, "");
  const page = location.href.replace(/[?#].*$/, "").slice(root.length).replace(/\\.html$/, "");
  function lead() {
    const id = decodeURIComponent(location.hash.slice(1)), to = window.ibvMovedTo;
    const there = id && (places.renamed[page + "#" + id] || (!document.getElementById(id) && places.split[id]));
    if (there && (to || there.split("#")[0] !== page + ".html")) location.replace(root + there);
    else if (there) location.replace("#" + there.split("#")[1]);
    else if (to) location.replace(to + location.hash);
  }
  if (window.ibvMovedTo) lead();
  else {
    document.addEventListener("DOMContentLoaded", lead);
    window.addEventListener("hashchange", lead);
  }
})();
"""


def _html(place: str) -> str:
    page, _, name = place.partition("#")
    return f"{page}.html" + (f"#{name}" if name else "")


def write(app: Sphinx, exception: Exception | None) -> None:
    """Write the pages that lead on, and the script that knows the places."""
    if exception or app.builder.format != "html":
        return
    table: dict[str, Any] = json.loads(TABLE.read_text(encoding="utf-8"))
    out = Path(app.outdir)
    split: dict[str, str] = {}
    for page in table["split"]:
        text = (out / f"{page}.html").read_text(encoding="utf-8")
        article = text[text.index("<article") : text.index("</article>")]
        split |= {name: f"{page}.html#{name}" for name in re.findall(r'\sid="([^"]+)"', article)}
    places = {"renamed": {old: _html(new) for old, new in table["sections"].items()}, "split": split}
    (out / "_static" / "moved.js").write_text(SCRIPT % json.dumps(places, sort_keys=True), encoding="utf-8")
    for old, new in table["pages"].items():
        here = out / f"{old}.html"
        root = "../" * old.count("/")
        there = root + _html(new)
        title = app.env.titles[new].astext() if new in app.env.titles else new
        here.parent.mkdir(parents=True, exist_ok=True)
        here.write_text(
            STUB.format(there=there, there_script=json.dumps(there), root=root, title=title), encoding="utf-8"
        )


def setup(app: Sphinx) -> dict[str, bool]:
    """Run when the pages are written."""
    app.add_js_file("moved.js")
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
