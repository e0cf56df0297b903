"""The drawings: the stored files are what the script draws, and each can be read by anybody."""

import re
from pathlib import Path
from xml.etree import ElementTree

import drawings
import pytest

NAMES = [make.__name__ for make in drawings.DRAWINGS]
SPACE = "{http://www.w3.org/2000/svg}"
PHONE = 342  # pixels that a page of 390 leaves to a picture
SMALLEST = 9  # pixels of a letter, as shown


def test_stored_drawings_are_what_the_script_draws(tmp_path: Path) -> None:
    drawings.write(tmp_path)
    assert sorted(path.stem for path in tmp_path.iterdir()) == sorted(NAMES)
    for path in tmp_path.iterdir():
        assert path.read_bytes() == (drawings.TARGET / path.name).read_bytes(), f"run book/drawings.py: {path.name}"


@pytest.mark.parametrize("name", NAMES)
def test_drawing_says_what_it_shows(name: str) -> None:
    root = ElementTree.parse(drawings.TARGET / f"{name}.svg").getroot()
    title, desc = root.find(f"{SPACE}title"), root.find(f"{SPACE}desc")
    assert title is not None and desc is not None and title.text and desc.text
    assert len(title.text) < 100 < len(desc.text)
    assert root.get("aria-labelledby") == f"{title.get('id')} {desc.get('id')}"
    assert len(list(root.iter(f"{SPACE}text"))) > 5  # text is text


def test_letters_are_large_enough_on_a_phone() -> None:
    sizes = [float(size) for size in re.findall(r"(?:font:|font-size:)([\d.]+)px", drawings.STYLE)]
    assert len(sizes) > 3 and min(sizes) * PHONE / drawings.WIDTH >= SMALLEST


def test_both_modes_have_all_colours() -> None:
    light, device, page = re.findall(r"\{(--.*?)\}", drawings.STYLE, re.S)
    assert re.findall(r"--\w+", light) == re.findall(r"--\w+", device)
    assert device.replace("\n", "") == page.replace("\n", "")
    used = {colour for make in drawings.DRAWINGS for colour in re.findall(r"var\((--\w+)\)", make().svg())}
    assert used <= set(re.findall(r"--\w+", light))
