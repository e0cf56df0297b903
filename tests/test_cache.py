"""The cache: what its keys know, and what it does where a disk, a home or another process fails."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

import ibvonns
from ibvonns.cache import _writable, cache_folder, cached, key_of, sources
from ibvonns.files import load_json

PACKAGE = Path(ibvonns.__file__).parent
HERE = PACKAGE / "cache.py"
RACE = """
import sys, time
from pathlib import Path
from ibvonns import cache
begin = float(sys.argv[1])
for number in range(20):
    def compute():
        while time.time() < begin + 0.1 * number: pass
        return {"x": list(range(20_000))}
    assert len(cache.cached("race", number, compute, Path(cache.__file__))["x"]) == 20_000
"""


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of each test's own."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    return tmp_path / "ibvonns"


def test_a_result_is_computed_once_and_known_by_its_inputs(home: Path) -> None:
    made = []

    def compute() -> dict[str, list[int]]:
        made.append(1)
        return {"x": [1, 2]}

    assert cached("thing", [1], compute, HERE) == cached("thing", [1], compute, HERE) == {"x": [1, 2]}
    assert len(made) == 1
    cached("thing", [2], compute, HERE)
    cached("other", [1], compute, HERE)
    cached("thing", [1], compute, PACKAGE / "law.py")
    assert len(made) == 4 == len(list(home.iterdir()))


@pytest.mark.parametrize("content", ["", "{", '{"x": ', "\x00", "[" * 100_000])
def test_a_damaged_entry_is_made_anew_and_said_once(content: str, home: Path, caplog: pytest.LogCaptureFixture) -> None:
    cached("thing", 1, lambda: {"x": 1}, HERE)
    (entry,) = home.iterdir()
    entry.write_text(content, encoding="utf-8")
    for _ in range(2):
        assert cached("thing", 1, lambda: {"x": 1}, HERE) == {"x": 1}
    assert json.loads(entry.read_text(encoding="utf-8")) == {"x": 1}
    (told,) = caplog.messages
    assert str(entry) in told and "made anew" in told


def test_an_entry_that_may_not_be_read_is_made_anew(
    home: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """As a colleague's in a shared cache, of a mode of 0600."""

    read, refused = load_json, list[Path]()

    def refuse(path: Path) -> object:
        if not refused:  # afterwards the file is one's own
            refused.append(path)
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    cached("thing", 1, lambda: 5, HERE)
    monkeypatch.setattr("ibvonns.cache.load_json", refuse)
    assert cached("thing", 1, lambda: 6, HERE) == 6 and "Permission denied" in caplog.text


def test_a_full_disk_is_an_error_with_the_path(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError, match=f"No space left on device: '{home}"):
        cached("thing", 1, lambda: 5, HERE)
    assert list(home.iterdir()) == []


def test_none_is_a_result(home: Path) -> None:
    made = []
    for _ in range(2):
        assert cached("nothing", 1, lambda: made.append(1), HERE) is None
    assert made == [1]


@pytest.mark.parametrize("answer", ["error", "~"])
def test_without_a_home_a_temporary_folder_serves(
    answer: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def homeless(_: str) -> Path:
        if answer == "error":
            raise RuntimeError("could not determine the home directory")
        return Path("~/.cache")

    monkeypatch.setattr("ibvonns.cache.user_cache_path", homeless)
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    monkeypatch.chdir(tmp_path)
    _writable.cache_clear()
    assert cache_folder().parent == tmp_path and "set XDG_CACHE_HOME" in caplog.text
    assert not (tmp_path / "~").exists()
    _writable.cache_clear()


def test_two_processes_that_finish_at_once_do_not_fail() -> None:
    environment = os.environ | {"PYTHONPATH": str(PACKAGE.parent), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RACE, str(time.time() + 8)]
    both = [subprocess.Popen(command, env=environment) for _ in range(2)]
    assert [process.wait() for process in both] == [0, 0]


def test_where_no_home_can_be_written_a_temporary_folder_serves(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "a file"
    blocked.write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(blocked))
    monkeypatch.setattr(tempfile, "gettempdir", lambda: str(tmp_path))
    assert cache_folder().parent == tmp_path and "set XDG_CACHE_HOME" in caplog.text
    assert cached("thing", 1, lambda: 5, HERE) == 5 == cached("thing", 1, lambda: 6, HERE)


def test_infinity_is_refused_and_nothing_is_left(home: Path) -> None:
    with pytest.raises(ValueError):
        cached("thing", 1, lambda: float("inf"), HERE)
    assert list(home.iterdir()) == []


def test_sources_follow_every_form_of_an_import(tmp_path: Path) -> None:
    root = tmp_path / "ibvonns"
    texts = {
        "__init__.py": "from ibvonns import wide\n",
        "one.py": "from ibvonns import layouts\nimport ibvonns.systems.trap\nimport os\n",
        "layouts.py": "def later():\n    from ibvonns.systems import chain\n",
        "wide.py": "",
        "paper/__init__.py": "",
        "paper/top.py": "from ibvonns.one import name\nfrom ibvonns.paper.low import (\n    a,\n)\n",
        "paper/low.py": "from ibvonns.paper import NAME\n",
        "systems/__init__.py": "",
        "systems/trap.py": "",
        "systems/chain.py": "",
    }
    for name, text in texts.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, encoding="utf-8")
    (root / "apart.py").write_text("", encoding="utf-8")
    found = {str(path.relative_to(root)) for path in sources(root / "paper" / "top.py")}
    assert found == texts.keys()


def test_a_module_of_the_book_stands_on_both_packages() -> None:
    root = PACKAGE.parent
    found = {str(path.relative_to(root)) for path in sources(root / "ibvonns_book" / "information.py")}
    assert {"ibvonns_book/information.py", "ibvonns/seeds.py", "ibvonns/law.py"} <= found
    assert not found & {"ibvonns_book/stiv.py", "ibvonns/paper/claims.py"}


def test_a_key_changes_with_any_code_that_it_stands_on(tmp_path: Path) -> None:
    copy = tmp_path / "ibvonns"
    shutil.copytree(PACKAGE, copy)
    module = copy / "paper" / "results.py"
    needed, key = sources(module), key_of(module, 1)
    assert key == key_of(PACKAGE / "paper" / "results.py", 1)  # wherever the library lies
    names = {str(path.relative_to(copy)) for path in needed}
    assert {"systems/chain.py", "systems/trap.py", "paper/studies.py", "adjoint.py"} <= names
    assert not names & {"paper/cli.py", "paper/scoreboard.py", "paper/baselines.py", "show/widgets.py"}
    for name in ("systems/chain.py", "law.py", "paper/limits.py", "show/widgets.py", "paper/cli.py"):
        text = (copy / name).read_bytes()
        (copy / name).write_bytes(text + b"\nANOTHER = 1\n")
        assert (key_of(module, 1) != key) == (name in names), name
        (copy / name).write_bytes(b"# a comment, and another docstring\n" + text.replace(b'"""', b'""" ', 1))
        assert key_of(module, 1) == key, name
        (copy / name).write_bytes(text)
