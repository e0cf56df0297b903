"""Run a command that says too much: a dot every ten seconds, its words in a file, the last of them where it fails.

python book/quietly.py FILE COMMAND...
"""

import subprocess
import sys
from pathlib import Path

LAST = 30  # lines that are shown of a failure


def main(file: str, *command: str) -> int:
    """Run the command. Returns its exit status."""
    log = Path(file)
    with log.open("wb") as kept, subprocess.Popen(command, stdout=kept, stderr=subprocess.STDOUT) as running:
        while True:
            try:
                status = running.wait(10)
                break
            except subprocess.TimeoutExpired:
                print(".", end="", flush=True)
    print(flush=True)
    if status:
        lines = log.read_text("utf-8", errors="replace").splitlines()
        print(*lines[-LAST:], f"The whole is in {file}.", sep="\n", file=sys.stderr)
    return status


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
