"""Files: whole or not there, with the modes of other files, links and devices left what they are."""

import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from toys import few_of, frozen

from ibvonns.ensemble import Ensemble
from ibvonns.files import draft, load_json, load_tensors, save_json, save_tensors
from ibvonns.model import load

#: Each way to write a file: a function of a path and a number that is written.
WRITERS: dict[str, Callable[[Path, int], None]] = {
    "tensors": lambda path, number: save_tensors(path, {"x": torch.full((3,), number)}),
    "json": lambda path, number: save_json(path, {"x": [number]}),
}


def number_in(path: Path) -> int:
    """What a writer wrote."""
    try:
        return int(load_json(path)["x"][0])
    except ValueError:
        return int(load_tensors(path)[0]["x"][0])


@pytest.fixture(params=WRITERS)
def write(request: pytest.FixtureRequest) -> Callable[[Path, int], None]:
    """One of the two writers."""
    return WRITERS[request.param]


def test_tensors_that_share_memory_can_be_saved(tmp_path: Path) -> None:
    base = torch.arange(6.0)
    save_tensors(tmp_path / "shared", {"base": base, "view": base[2:4], "row": base[None]})
    tensors, metadata = load_tensors(tmp_path / "shared")
    assert metadata == {}
    assert tensors["view"].tolist() == [2.0, 3.0] and tensors["row"].shape == (1, 6)
    assert tensors["base"].tolist() == base.tolist()


def test_reader_of_the_old_file_is_not_disturbed_by_a_new_one(
    tmp_path: Path, write: Callable[[Path, int], None]
) -> None:
    """The new file takes the old one's name; it is not written into the old one."""
    path = tmp_path / "deep" / "x"
    write(path, 0)
    whole = path.read_bytes()
    with path.open("rb") as reader:
        write(path, 1)
        assert reader.read() == whole
    assert number_in(path) == 1


def test_failing_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, write: Callable[[Path, int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "numbers"
    write(path, 0)
    before = path.read_bytes()

    def fail(*arguments: Any, **_: Any) -> None:
        names = [str(part) for part in arguments if isinstance(part, (str, Path))]
        with open(names[0], "wb") as half:
            half.write(before[:20])
        raise OSError("no space left on device")

    monkeypatch.setattr(Path, "write_bytes", fail)
    monkeypatch.setattr(Path, "write_text", fail)
    with pytest.raises(OSError, match="no space"):
        write(path, 1)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask_or_the_file_that_was_there(
    tmp_path: Path, write: Callable[[Path, int], None], mask: int
) -> None:
    new, old = tmp_path / "new", tmp_path / "old"
    old.write_text("{}")
    old.chmod(0o640)
    before = os.umask(mask)
    try:
        write(new, 1)
        write(old, 1)
        assert os.umask(mask) == mask  # left as it was
    finally:
        os.umask(before)
    assert stat.S_IMODE(new.stat().st_mode) == 0o666 & ~mask
    assert stat.S_IMODE(old.stat().st_mode) == 0o640


def test_links_stay_links_and_neighbours_stay(tmp_path: Path, write: Callable[[Path, int], None]) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real/law")  # to nothing, at first
    notes = [tmp_path / name for name in ("law.tmp", ".law", "real/law.tmp", "real/law~")]
    for path in notes:
        path.write_text("my notes")
    for number in (0, 1):
        write(tmp_path / "link", number)
        assert (tmp_path / "link").is_symlink() and number_in(tmp_path / "real" / "law") == number
    assert all(path.read_text() == "my notes" for path in notes)
    assert sorted(path.name for path in (tmp_path / "real").iterdir()) == ["law", "law.tmp", "law~"]


def test_what_is_no_regular_file_is_written_in_place(tmp_path: Path, write: Callable[[Path, int], None]) -> None:
    """A pipe of its own stands for all devices: a test must never be given the machine's."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    (tmp_path / "link").symlink_to(pipe)
    reader = os.open(pipe, os.O_RDWR | os.O_NONBLOCK)
    try:
        for path in (pipe, tmp_path / "link"):
            write(path, 7)
            assert stat.S_ISFIFO(pipe.lstat().st_mode)
            (tmp_path / "copy").write_bytes(os.read(reader, 10_000))
            assert number_in(tmp_path / "copy") == 7
    finally:
        os.close(reader)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["copy", "link", "pipe"]


def test_two_drafts_of_one_file_do_not_meet(tmp_path: Path) -> None:
    path = tmp_path / "x"
    with draft(path) as one, draft(path) as other:
        one.write_text("one")
        other.write_text("other")
        assert not path.exists()
    assert path.read_text() == "one" and list(tmp_path.iterdir()) == [path]
    with pytest.raises(KeyboardInterrupt), draft(path) as third:
        third.write_text("half")
        raise KeyboardInterrupt
    assert path.read_text() == "one" and list(tmp_path.iterdir()) == [path]


def test_json_comes_back_as_it_was_and_knows_no_nan(tmp_path: Path) -> None:
    content = {"b": [1.1, 1e-300, None], "a": {"é": True}}
    save_json(tmp_path / "x.json", content)
    assert load_json(tmp_path / "x.json") == content
    text = (tmp_path / "x.json").read_text(encoding="utf-8")
    assert text.index('"a"') < text.index('"b"') and text.endswith("}\n")
    with pytest.raises(ValueError, match="not JSON compliant"):
        save_json(tmp_path / "x.json", [float("nan")])
    assert load_json(tmp_path / "x.json") == content


DAMAGES: dict[str, Callable[[bytes], bytes]] = {
    "empty": lambda whole: b"",
    "garbage": lambda whole: b"not a file of tensors " * 20,
    "bytes": lambda whole: bytes(range(128, 256)),
    "truncated": lambda whole: whole[:-7],
    "longer": lambda whole: whole + b"more",
    "half header": lambda whole: whole[:30],
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("kind", ["ensemble.safetensors", "model.safetensors", "model.json"])
def test_damaged_file_is_refused_in_one_sentence(tmp_path: Path, damage: str, kind: str) -> None:
    path = tmp_path / kind
    reads: Callable[[Path], Any] = Ensemble.load if kind.startswith("ens") else load
    few_of("point").save(path) if reads is Ensemble.load else frozen("point").save(path)
    path.write_bytes(DAMAGES[damage](path.read_bytes()))
    what = "JSON" if path.suffix == ".json" else "safetensors"
    with pytest.raises(ValueError, match=f"^path must name a whole {what} file, but .* damaged"):
        reads(path)


def _plain(path: Path) -> dict[str, Any]:
    frozen("point").save(path)
    plain: dict[str, Any] = json.loads(path.read_text())
    return plain


def _without(*names: str) -> Callable[[dict[str, Any]], Any]:
    def drop(law: dict[str, Any]) -> Any:
        part = law
        for name in names[:-1]:
            part = part[name]
        del part[names[-1]]
        return law

    return drop


CHANGES: dict[str, Callable[[dict[str, Any]], Any]] = {
    "a list": lambda law: [law],
    "no kind": _without("kind"),
    "no seeds": _without("seeds"),
    "no tensors": _without("tensors"),
    "a tensor less": _without("tensors", "encoder.offset"),
    "a tensor more": lambda law: law | {"tensors": law["tensors"] | {"x": [1.0]}},
    "a tensor of another shape": lambda law: law | {"seeds": [0]},
    "no layout": _without("architecture", "layout"),
    "an unknown layout": lambda law: law | {"architecture": law["architecture"] | {"layout": {"kind": "Torus"}}},
    "an unknown word": lambda law: law | {"architecture": law["architecture"] | {"gauge": 1}},
    "another word": lambda law: law | {"architecture": law["architecture"] | {"decoder": "x"}},
}


@pytest.mark.parametrize("change", CHANGES)
def test_whole_file_that_holds_no_law_is_refused_in_one_sentence(tmp_path: Path, change: str) -> None:
    path = tmp_path / "model.json"
    save_json(path, CHANGES[change](_plain(path)))
    with pytest.raises(ValueError, match=" must ") as caught:
        load(path)
    assert type(caught.value) is ValueError and "\n" not in str(caught.value)


@pytest.mark.parametrize("missing", ["seeds", "architecture", "both"])
def test_tensors_without_the_models_texts_are_refused(tmp_path: Path, missing: str) -> None:
    path = tmp_path / "model.safetensors"
    frozen("point").save(path)
    tensors, metadata = load_tensors(path)
    head = json.loads(metadata["ibvonns.Model"])
    kept = {key: value for key, value in head.items() if key != missing and (missing != "both" or key == "kind")}
    save_tensors(path, tensors, {"ibvonns.Model": json.dumps(kept)})
    with pytest.raises(ValueError, match=" must "):
        load(path)
