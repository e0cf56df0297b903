"""What it takes to run the book: measured when it is run, and made into a table for the page.

    python book/running.py NAME COMMAND...   run a command that trains seeds, and keep what it took
    python book/running.py                   say what all of it took

`notebooks/execute.py` keeps what each chapter takes in the same way, in `book/running.json`. Times
differ from run to run: seconds are kept to two digits, memory to 10 MB. `book/_ext/written.py`
writes the table whenever the pages are built.
"""

import fcntl
import json
import os
import platform
import re
import resource
import subprocess
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

HERE = Path(__file__).resolve().parent
RUNNING = HERE / "running.json"
TITLE = re.compile(r"^# (.+)$", re.M)
#: What the paper's two systems take: chapters by number, and what `make seeds` trains for them.
CHAPTERS = {f"{number:02}" for number in (*range(1, 10), 16)}
PAPER = {
    "the entropy limit",
    "mixture, strains alone, truth of the trap",
    "flow, neural ODE",
    "trap without its density",
    "truth of the chain",
}


def two_digits(seconds: float) -> float:
    """Seconds as they are kept.

    >>> two_digits(83.7), two_digits(6.543), two_digits(421.0)
    (84.0, 6.5, 420.0)
    """
    return float(f"{seconds:.2g}")


def tens(size: float) -> int:
    """Bytes to 10 MB.

    >>> tens(1_234_567_890)
    1230
    """
    return 10 * round(size / 1e7)


def peak_megabytes(process: int) -> int | None:
    """The most memory that a living process has held, to 10 MB; None where Linux does not tell."""
    try:
        status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    except OSError:
        return None
    found = re.search(r"^VmHWM:\s+(\d+) kB$", status, re.M)
    return tens(int(found[1]) * 1024) if found else None


def machine() -> str:
    """Processor and number of its cores that may be used here."""
    name = platform.processor() or platform.machine()
    try:
        found = re.search(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text("utf-8"), re.M)
        name = found[1].strip() if found else name
    except OSError:
        pass
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{name}, {cores} cores"


def processor() -> float:
    """Seconds of processor time that ended child processes have used so far."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def record(file: Path, name: str, seconds: float, used: float, megabytes: int | None) -> None:
    """Keep what a run took by the clock, and of the processor; runs side by side wait for one another."""
    entry: dict[str, Any] = {"seconds": two_digits(seconds), "processor": two_digits(used), "machine": machine()}
    if megabytes is not None:
        entry["megabytes"] = megabytes
    with file.open("a+", encoding="utf-8") as kept:
        fcntl.flock(kept, fcntl.LOCK_EX)  # until it is closed
        kept.seek(0)
        entries = json.loads(kept.read() or "{}")
        entries[name] = entry
        kept.truncate(0)
        kept.write(json.dumps(entries, indent=1, sort_keys=True, ensure_ascii=False) + "\n")


def spoken(seconds: float) -> str:
    """A time in words of two digits.

    >>> spoken(6.5), spoken(84.0), spoken(420.0), spoken(840.0)
    ('6.5 s', '84 s', '7.0 min', '14 min')
    """
    return f"{seconds:.2g} s" if seconds < 100 else f"{seconds / 60:#.2g}".rstrip(".") + " min"


def line(name: str, entry: dict[str, Any]) -> str:
    """A row of the table."""
    memory = f"{entry['megabytes']} MB" if "megabytes" in entry else "not measured"
    return f"| {name} | {spoken(entry['seconds'])} | {spoken(entry['processor'])} | {memory} |"


def total(entries: dict[str, Any], all_of_it: bool = True) -> float:
    """Seconds of processor time of all that is in the table, or of the paper's two systems alone."""
    return sum(e["processor"] for name, e in entries.items() if all_of_it or name in PAPER or name[:2] in CHAPTERS)


def table(entries: dict[str, Any], chapters: Path) -> str:
    """The tables of the page: what trains the seeds, if it has been measured, and the chapters.

    Args:
        entries: of `running.json`.
        chapters: folder of the chapters' sources, whose titles and order are taken.
    """
    lines = ["| chapter | clock | processor | peak memory |", "|---|--:|--:|--:|"]
    for source in sorted(chapters.glob("[0-9][0-9]_*.md")):
        title = TITLE.search(source.read_text(encoding="utf-8"))
        if source.stem in entries and title:
            number = int(source.stem[:2])
            link = f"[{number}. {title[1]}](../notebooks/{source.name})"
            lines.append(line(link, entries[source.stem]))
    seeds = {name: entry for name, entry in entries.items() if not name[:2].isdigit()}
    if seeds:
        lines += ["", "| trained ahead by `make seeds` | clock | processor | peak memory |", "|---|--:|--:|--:|"]
        lines += [line(name, entry) for name, entry in seeds.items()]
    machines = sorted({entry["machine"] for entry in entries.values()})
    return "\n".join([*lines, "", said(entries), "", f"Measured on: {'; '.join(machines)}.", ""])


def said(entries: dict[str, Any]) -> str:
    """What all of it takes, in a sentence."""
    whole, paper = (f"{total(entries, every):,.0f} seconds" for every in (True, False))
    return f"All of it takes {whole} of processor time; chapters 1 to 9 and 16 with what they need {paper} of these."


def cache() -> set[str]:
    """Names of what has been trained and kept."""
    from platformdirs import user_cache_path  # not needed where the pages are built

    return {path.name for path in user_cache_path("ibvonns").glob("*") if path.suffix != ".tmp"}


def main(name: str, command: list[str]) -> int:
    """Run a command; keep what it took if the cache grew. Returns its exit status."""
    before, begun = cache(), perf_counter()
    status = subprocess.run(command).returncode
    if status == 0 and cache() - before:  # otherwise there was nothing to train
        unit = 1 if sys.platform == "darwin" else 1024  # bytes of ru_maxrss
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * unit
        record(RUNNING, name, perf_counter() - begun, processor(), tens(peak))
    return status


if __name__ == "__main__":
    if sys.argv[1:]:
        raise SystemExit(main(sys.argv[1], sys.argv[2:]))
    print(said(json.loads(RUNNING.read_text(encoding="utf-8"))))
