"""A Sphinx extension: two pictures of the same thing stand in one place, with a switch between them.

Cells that follow one another and have a tag ``switch-NAME`` become the tabs of one set. Each keeps its figure, with
number, label, caption and text for the blind. sphinx-design turns all switches of a page together, and the switch of a
figure that a link leads to. A picture is loaded when it is shown. On paper all are printed.
"""

from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.transforms import SphinxTransform
from sphinx_design.shared import create_component, is_component

NAMES = {"tag_switch-mixture": "Two Gaussians", "tag_switch-flow": "Flow"}


class JoinSwitched(SphinxTransform):
    """Put neighbouring cells of different names into one set of tabs."""

    default_priority = 210

    def apply(self, **kwargs: Any) -> None:
        """Go through one page."""
        for cell in list(self.document.findall(nodes.container)):
            name = next((each for each in cell.get("classes", []) if each in NAMES), None)
            if name is None:
                continue
            label = nodes.rubric(NAMES[name], NAMES[name], classes=["sd-tab-label"])
            label["sync_group"], label["sync_id"] = "switch", name
            content = create_component("tab-content", ["sd-tab-content"])
            parts = [label, content]
            item = create_component("tab-item", ["sd-tab-item"], children=parts, selected=False, switched=name)
            place, parent = cell.parent.index(cell), cell.parent
            before = parent[place - 1] if place else None
            joins = (
                before is not None
                and is_component(before, "tab-set")
                and name not in [one["switched"] for one in before]
            )
            if joins:
                before += item
                parent.remove(cell)
                for image in cell.findall(nodes.image):
                    image["loading"] = "lazy"  # until the switch is turned
            else:
                parent[place] = create_component("tab-set", ["sd-tab-set", "ibv-switch"], children=[item])
            content += cell


def setup(app: Sphinx) -> dict[str, bool]:
    """Run on every page."""
    app.add_transform(JoinSwitched)
    app.add_css_file("switch.css")
    return {"parallel_read_safe": True, "parallel_write_safe": True}
