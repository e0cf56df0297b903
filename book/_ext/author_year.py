"""A Sphinx extension: the list of references names its works as the text does, by author and year.

The text says "Qiu et al., 2025", and a list with numbers would leave its reader to search. So each entry of the list
has that for a label, and begins with the name by which the list is sorted.
"""

from collections.abc import Iterable, Iterator

from pybtex.database import Entry
from pybtex.plugin import register_plugin
from pybtex.style.formatting.unsrt import Style as Unsorted
from pybtex.style.labels import BaseLabelStyle
from pybtex.style.sorting.author_year_title import SortingStyle
from sphinx.application import Sphinx

NAME = "author_year"  # as a page asks for it


def label(entry: Entry) -> str:
    """Author and year, as the citations of `bibtex_reference_style: author_year` have them."""
    names = [" ".join([*person.prelast_names, *person.last_names]) for person in entry.persons["author"]]
    if len(names) > 2:
        who = f"{names[0]} et al."
    else:
        who = " and ".join(names)
    return f"{who}, {entry.fields['year']}"


class Labels(BaseLabelStyle):  # type: ignore[misc]
    """Labels of a whole list."""

    def format_labels(self, sorted_entries: Iterable[Entry]) -> Iterator[str]:
        """One for each entry."""
        return map(label, sorted_entries)


class Style(Unsorted):  # type: ignore[misc]
    """The list, sorted by author and year."""

    default_label_style = Labels
    default_sorting_style = SortingStyle


def setup(app: Sphinx) -> dict[str, bool]:
    """Make the style known to the bibliography."""
    register_plugin("pybtex.style.formatting", NAME, Style)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
