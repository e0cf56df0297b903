#!/usr/bin/env bash
# Execute chapters 1 to 6 in a clone, with a limit on the memory of all of their processes together, and print the peak.
#
#     bash benchmarks/memory.sh [MB]     1900 if not given; Linux with cgroups of version 1, as root; caches are used
set -eu
group=/sys/fs/cgroup/memory/ibvonns-$$ limit=$((${1:-1900} * 1024 * 1024)) here=$(cd "$(dirname "$0")/.." && pwd)
clone=$(mktemp -d) && trap 'rm -rf "$clone"' EXIT
git clone -q "$here" "$clone" && ln -s "$here/.venv" "$clone/.venv" && cd "$clone"
mkdir "$group" && echo "$limit" > "$group/memory.limit_in_bytes" && echo $$ > "$group/cgroup.procs"
for chapter in 1 2 3 4 5 6; do PYTHONPATH=$clone .venv/bin/python notebooks/execute.py -q "$chapter" 2>/dev/null; done
echo "peak $(($(cat "$group/memory.max_usage_in_bytes") / 1000000)) MB of $((limit / 1000000)), refused $(cat "$group/memory.failcnt") times"
