"""Files: whole or not there, with the modes of other files, links and devices left what they are."""

import errno
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
from ibvonns.files import load_json, load_tensors, save_json, save_tensors
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

    def fail(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patch:
            patch.setattr(os, name, fail)
            with pytest.raises(OSError, match="No space left on device: '.*numbers'$"):
                write(path, 1)
        assert path.read_bytes() == before
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux's")
def test_a_full_disk_is_told_with_the_path(write: Callable[[Path, int], None]) -> None:
    with pytest.raises(OSError, match="No space left on device: '/dev/full'"):
        write(Path("/dev/full"), 1)


def test_a_pipe_of_the_shells_is_written(tmp_path: Path) -> None:
    """As `>(...)` gives it: a name of which no folder can be made."""
    reader, writer = os.pipe()
    save_json(f"/proc/self/fd/{writer}" if Path("/proc/self/fd").exists() else f"/dev/fd/{writer}", {"a": 1})
    assert json.loads(os.read(reader, 1000)) == {"a": 1}
    os.close(reader)
    os.close(writer)


def test_a_file_that_may_not_be_written_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "mine.json"
    path.write_text("mine")
    monkeypatch.setattr(os, "access", lambda *_: False)  # as for whom is not root, of a mode of 0444
    with pytest.raises(PermissionError, match="mine.json"):
        save_json(path, 1)
    assert path.read_text() == "mine"


def test_a_link_to_itself_is_refused(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(OSError, match="loop"):
        save_json(tmp_path / "loop", 1)


def test_a_name_as_long_as_the_system_allows_is_written(tmp_path: Path) -> None:
    save_json(tmp_path / ("n" * 250 + ".json"), 1)
    assert load_json(tmp_path / ("n" * 250 + ".json")) == 1


@pytest.mark.parametrize("flag", [True, False])
def test_a_kill_leaves_the_old_file_and_no_part_of_the_new(
    tmp_path: Path, flag: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system writes without a name; elsewhere what is interrupted removes its draft."""
    seen: list[list[str]] = []

    def killed(*_: Any) -> None:
        seen.append([path.name for path in tmp_path.iterdir()])
        raise KeyboardInterrupt

    if not flag:
        monkeypatch.delattr(os, "O_TMPFILE", raising=False)
    elif not hasattr(os, "O_TMPFILE"):
        pytest.skip("no file without a name here")
    save_json(tmp_path / "x", 1)
    monkeypatch.setattr(os, "fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        save_json(tmp_path / "x", 2)
    assert load_json(tmp_path / "x") == 1 and len(list(tmp_path.iterdir())) == 1
    assert flag <= (seen == [["x"]])


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
