#!/usr/bin/env bash
# Makes a Python with the libraries of requirements.txt, for the foreign peers of
# `homa-interop matrix --suite thrift`.
#
#   interop/foreign/setup.sh           in the target folder, where the matrix looks for it
#   interop/foreign/setup.sh FOLDER    elsewhere, for `matrix --python FOLDER/bin/python3`
#
# Where there is no Python, or pip cannot get the libraries, it says so and exits with status 77.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
folder=${1:-${CARGO_TARGET_DIR:-$repository/target}/foreign}
python=$folder/bin/python3
# Seconds that pip may take.
patience=180

skip() {
    echo "no foreign peers: $1" >&2
    exit 77
}

is_complete() {
    "$python" - "$here/requirements.txt" <<'END' 2>/dev/null
import importlib.metadata, sys

lines = (line.strip() for line in open(sys.argv[1], encoding="utf-8"))
for line in lines:
    if line and not line.startswith("#"):
        name, version = line.split("==")
        assert importlib.metadata.version(name) == version, name
END
}

if is_complete; then
    echo "$python has what is needed"
    exit 0
fi
command -v python3 >/dev/null 2>&1 || skip "there is no python3"
python3 -m venv "$folder" || skip "python3 cannot make $folder (on Debian: install python3-venv)"
timeout "$patience" "$python" -m pip install --quiet --retries 2 \
    --disable-pip-version-check --requirement "$here/requirements.txt" ||
    skip "pip could not install the libraries within $patience s; see its message above"
is_complete || skip "pip did not install what requirements.txt asks for"
echo "$python has what is needed"
