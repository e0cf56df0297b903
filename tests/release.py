"""A release: sdist and wheel, checked, and used in an empty environment of each Python that the library is for.

python tests/release.py    what `make release` runs; dist/ then holds what passed
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path
from time import perf_counter

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
# a `build` or an `egg-info` left by an earlier wheel would slip its old files into this one
OTHERS = shutil.ignore_patterns(".*", "_build", "build", "dist", "*.egg-info", "__pycache__")


def run(*words: str | Path, where: Path | None = None, **new: str) -> str:
    """What a command prints; where it fails, its words are told, not its number."""
    ran = subprocess.run(words, env=os.environ | new, cwd=where, timeout=1800, capture_output=True, text=True)
    assert ran.returncode == 0, f"{words}\n{ran.stdout[-2000:]}\n{ran.stderr[-4000:]}"
    return ran.stdout


def environment(python: str | Path, venv: Path) -> Path:
    """A new virtual environment; returns the folder of its programs."""
    run(python, "-m", "venv", "--clear", venv)
    return venv / ("Scripts" if os.name == "nt" else "bin")


def built(folder: Path) -> tuple[Path, Path]:
    """Sdist and wheel of a copy of the checkout, the wheel built from the sdist, as PyPI's checks want them."""
    shutil.copytree(ROOT, folder / "source", ignore=OTHERS)
    its = environment(sys.executable, folder / "tools")
    run(its / "pip", "install", "-q", *PROJECT["optional-dependencies"]["release"])
    run(its / "python", "-m", "build", "--outdir", folder / "dist", folder / "source")
    sdist, wheel = (next((folder / "dist").glob(kind)) for kind in ("*.tar.gz", "*.whl"))
    run(its / "twine", "check", "--strict", sdist, wheel)
    return sdist, wheel


def quick_start(python: str | Path, wheel: Path, folder: Path) -> str:
    """What the README's quick start prints where nothing but the wheel and what it asks for is installed."""
    section = (ROOT / "README.md").read_text(encoding="utf-8").partition("\n## Quick start\n")[2]
    code = re.search(r"^```python\n(.*?)^```$", section.partition("\n## ")[0], re.M | re.S)
    assert code, "README.md needs a ```python block under '## Quick start'"
    venv = folder / "venv"  # one at a time: PyTorch is large
    its = environment(python, venv)
    # pinned, as what the book runs on is. pip only warns where there is no such extra.
    run(its / "pip", "install", "-q", "-c", ROOT / "constraints.txt", f"{wheel}[plots]")
    # -I: nothing but this environment is on the path. Caches of its own: the first run compiles.
    own = {"XDG_CACHE_HOME": str(venv), "NUMBA_CACHE_DIR": str(venv), "OMP_NUM_THREADS": "1"}
    return run(its / "python", "-I", "-c", code[1], where=folder, MPLBACKEND="Agg", **own)


def interpreters() -> dict[str, Path | None]:
    """By version, each Python that pyproject.toml names: from the path, or pyenv's."""
    versions = [name.split()[-1] for name in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d", name)]
    pyenv = Path(os.getenv("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found: dict[str, Path | None] = dict.fromkeys(versions)
    for version in versions:
        paths = [shutil.which(f"python{version}"), *map(str, sorted(pyenv.glob(f"{version}.*/bin/python")))]
        asked = f"import sys, venv; sys.exit(not sys.version.startswith('{version}.'))"  # pyenv's shims may do nothing
        for path in filter(None, paths):
            if found[version] is None and subprocess.run([path, "-c", asked], capture_output=True).returncode == 0:
                found[version] = Path(path)
    return found


def main() -> None:
    """All of it, step by step."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = built(folder)
        print(f"Built and checked: {', '.join(file.name for file in files)}", flush=True)
        found = interpreters()
        for version, python in found.items():
            if python is None:
                print(f"Python {version}: none on this machine", flush=True)
                continue
            start = perf_counter()
            told = quick_start(python, files[1], folder)
            print(f"Python {version}: installed and run in {perf_counter() - start:.0f} s. It says\n{told}", flush=True)
        if os.getenv("CI") == "true" and None in found.values():
            sys.exit("CI has every Python that pyproject.toml names: nothing is released without one.")
        shutil.rmtree(ROOT / "dist", ignore_errors=True)
        shutil.copytree(folder / "dist", ROOT / "dist")


if __name__ == "__main__":
    main()
