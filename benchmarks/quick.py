"""What the README's quick start takes in a new process, with nothing compiled yet and with all of it.

Usage:
    python benchmarks/quick.py
"""

import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter

README = Path(__file__).parents[1] / "README.md"


def main() -> None:
    """Run it twice with caches of its own, and print the processor's and the clock's seconds."""
    code = re.search(r"^## Quick start\n.*?^```python\n(.*?)^```$", README.read_text("utf-8"), re.M | re.S)
    assert code, "README.md needs a ```python block under '## Quick start'"
    with tempfile.TemporaryDirectory() as folder:
        own = {"XDG_CACHE_HOME": folder, "NUMBA_CACHE_DIR": folder, "OMP_NUM_THREADS": "1", "MPLBACKEND": "Agg"}
        for what in ("from nothing", "once compiled"):
            before, start = sum(os.times()[2:4]), perf_counter()
            subprocess.run([sys.executable, "-c", code[1]], cwd=folder, env=os.environ | own, check=True)
            took = sum(os.times()[2:4]) - before
            print(f"{what}: {took:.0f} s of processor time, {perf_counter() - start:.0f} s by the clock", flush=True)


if __name__ == "__main__":
    main()
