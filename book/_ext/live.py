"""A Sphinx extension: the widgets of `ibvonns.show.widgets` in the page, with nothing loaded for them.

A stored notebook keeps its widgets as state, which Jupyter's own page scripts (several megabytes)
would bring to life. Here the build does it: each widget becomes its content beside the very module
that Jupyter would run, and the frames of a slider become files. Without JavaScript, and in print,
the first frame is there all the same.

A page that is no notebook shows the panel of one by the directive `panel`, whose argument is the notebook's path:
what that stores is read when the book is built. With the flag `play` it begins by itself, unless the reader's system
asks for less motion.
"""

import base64
import hashlib
import json
from html import escape
from pathlib import Path
from typing import Any

import nbformat
from docutils import nodes
from docutils.parsers.rst import directives
from sphinx.application import Sphinx
from sphinx.errors import ExtensionError
from sphinx.util.docutils import SphinxDirective

from ibvonns.show.widgets import LIVE

VIEW = "application/vnd.jupyter.widget-view+json"
KINDS = {f"ibvonns.show.widgets.{name}": name for name in ("Frames", "Gas", "Panel")}
FALLBACK = "This is a live panel: it needs JavaScript, and a page rather than paper."
START = """
for (const el of document.querySelectorAll("[data-ibvonns]")) {
  const content = JSON.parse(el.querySelector("script").textContent);
  modules[el.dataset.ibvonns].render({ model: { get: () => content }, el });
  if ("play" in el.dataset && !matchMedia("(prefers-reduced-motion: reduce)").matches) {
    [...el.querySelectorAll("button")].find((each) => each.textContent === "Play")?.click();
  }
}
"""


def classic() -> str:
    """All modules as one classic script: a page opened from disk may load no others."""
    parts = ["(() => {", (LIVE / "shared.js").read_text(encoding="utf-8"), "const modules = {};"]
    for kind in KINDS.values():
        text = (LIVE / f"{kind.lower()}.js").read_text(encoding="utf-8")
        head, found, tail = text.rpartition("export default ")
        if not found:
            raise ValueError(f"{kind.lower()}.js must end with a default export")
        parts.append(f"modules.{kind} = (() => {{\n{head}return {tail}}})();")
    return "\n".join([*parts, START, "})();\n"])


def write_static(app: Sphinx) -> None:
    """Put script and style where the pages find them."""
    if app.builder.format == "html":
        folder = Path(app.outdir) / "_static"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "live.js").write_text(classic(), encoding="utf-8")
        style = (LIVE / "live.css").read_text(encoding="utf-8")
        (folder / "live.css").write_text(style, encoding="utf-8")


def page(content: dict[str, Any], kind: str, images: Path, up: str, plays: bool = False) -> str:
    """A widget as HTML: what is seen without a script, and its content for the script."""
    still = f"<p>{FALLBACK}</p>"
    if kind == "Frames":
        sources = []
        for source in content["sources"]:
            picture = base64.b64decode(source.partition(",")[2])
            name = f"frame-{hashlib.sha256(picture).hexdigest()[:16]}.png"
            (images / name).write_bytes(picture)
            sources.append(f"{up}_images/{name}")
        content = {**content, "sources": sources}
        alt = escape(f"{content['description']} {content['labels'][0]}", quote=True)
        still = f'<img src="{sources[0]}" alt="{alt}" width="{content["width"]}">'
    data = json.dumps(content, ensure_ascii=False).replace("</", "<\\/")
    script = f'<script type="application/json">{data}</script>'
    begins = " data-play" if plays else ""
    return f'<div class="ibv-live" data-ibvonns="{kind}"{begins}>{still}{script}</div>'


class StoredPanel(SphinxDirective):
    """The live panel of a stored notebook, in another page."""

    required_arguments = 1
    option_spec = {"play": directives.flag}

    def run(self) -> list[nodes.Node]:
        """Read the notebook."""
        relative, path = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(relative)
        widgets = nbformat.read(path, as_version=nbformat.NO_CONVERT).metadata.widgets
        models = [model["state"] for model in widgets["application/vnd.jupyter.widget-state+json"]["state"].values()]
        found = [model["content"] for model in models if KINDS.get(model.get("_anywidget_id", "")) == "Panel"]
        if len(found) != 1:
            raise self.error(f"{relative} must store one panel, but stores {len(found)}")
        self.env.metadata[self.env.docname]["live"] = "stored"
        html = page(found[0], "Panel", Path(self.env.app.outdir), "", "play" in self.options)
        return [nodes.raw("", html, format="html")]


def enliven(app: Sphinx, doctree: nodes.document) -> None:
    """Replace the views of widgets, and drop the state that Jupyter's scripts would read."""
    scripts = app.env.nb_metadata.get(app.env.docname, {}).get("js_files", {})  # type: ignore[attr-defined]
    if "ipywidgets_state" not in scripts:
        return
    state = json.loads(scripts["ipywidgets_state"][1]["body"].replace("<\\/", "</"))["state"]
    images = Path(app.outdir) / "_images"
    images.mkdir(parents=True, exist_ok=True)
    for node in list(doctree.findall(nodes.raw)):
        opening = f'<script type="{VIEW}">'
        if not node.astext().startswith(opening):
            continue
        view = json.loads(node.astext()[len(opening) :].removesuffix("</script>"))
        model = state[view["model_id"]]["state"]
        kind = KINDS.get(model.get("_anywidget_id", ""))
        if kind is None:
            name = model.get("_model_name", "of an unknown kind")
            raise ExtensionError(
                f"{app.env.docname} shows a widget, {name}, which no page without a kernel can: "
                f"use one of {', '.join(KINDS)}"
            )
        up = "../" * app.env.docname.count("/")
        html = page(model["content"], kind, images, up)
        node.replace_self(nodes.raw("", html, format="html"))
    for name in [name for name in scripts if name.startswith("ipywidgets_")]:
        del scripts[name]
    scripts["live"] = ("live.js", {"defer": "defer"})
    app.env.metadata[app.env.docname]["live"] = "yes"


def add_style(app: Sphinx, name: str, template: str, context: Any, doctree: object) -> None:
    """Load the style, and for a page that is no notebook the script, where there is something live."""
    live = app.env.metadata.get(name, {}).get("live")
    if live:
        app.add_css_file("live.css")
    if live == "stored":
        app.add_js_file("live.js", loading_method="defer")


def setup(app: Sphinx) -> dict[str, bool]:
    """Run after myst-nb has read a notebook."""
    app.add_directive("panel", StoredPanel)
    app.connect("builder-inited", write_static)
    app.connect("doctree-read", enliven, priority=900)
    app.connect("html-page-context", add_style)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
