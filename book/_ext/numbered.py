"""A Sphinx extension: every displayed equation of the text has a number.

Sphinx numbers an equation that has a label, and MyST gives a plain ``$$`` block none. So each gets
a label here, before the numbers are given out. Left alone are what a cell printed, and equations in
exercises, solutions and other boxes: steps that nobody refers to.
"""

import re
from typing import Any, cast

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.domains.math import MathDomain
from sphinx.transforms import SphinxTransform

# The environments that amsmath numbers line by line, and the parts of an equation in their place.
INNER = {"align": "aligned", "gather": "gathered", "equation": "split"}


def is_aside(node: nodes.Node) -> bool:
    """Whether a node stands in a cell's output or in a box."""
    while node is not None:
        if isinstance(node, nodes.Admonition):
            return True
        if isinstance(node, nodes.Element) and "cell_output" in node.get("classes", []):
            return True
        node = node.parent
    return False


class NumberEquations(SphinxTransform):
    """Label the displayed equations that have no label; show the number of all that have one."""

    default_priority = 840  # SphinxDomains, which reads the labels, has 850

    def apply(self, **kwargs: Any) -> None:
        """Go through one page."""
        page = self.env.docname
        domain = cast(MathDomain, self.env.get_domain("math"))
        count = 0
        for node in self.document.findall(nodes.math_block):
            # MyST labels \begin{align} at random, but Sphinx writes it as it is, with no number.
            if node.get("nowrap") and node.get("label"):
                source = node.astext().strip()
                match = re.fullmatch(r"\\begin\{(\w+)\}(.*)\\end\{\1\}", source, re.DOTALL)
                if match and (inner := INNER.get(match[1])):
                    text = f"\\begin{{{inner}}}{match[2]}\\end{{{inner}}}"
                    node.children = [nodes.Text(text)]
                    node["nowrap"] = False
            if node.get("nowrap") or node.get("label") or is_aside(node):
                continue
            count += 1
            label = f"{page}-{count}"
            domain.note_equation(page, label, location=node)
            node["label"] = label
            node["docname"] = page
            node["number"] = domain.get_equation_number_for(label)
            identity = nodes.make_id(f"equation-{label}")
            node["ids"].append(identity)
            self.document.note_explicit_target(node)


def setup(app: Sphinx) -> dict[str, bool]:
    """Run on every page."""
    app.add_transform(NumberEquations)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
