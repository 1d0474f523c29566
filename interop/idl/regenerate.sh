#!/usr/bin/env bash
# Makes the Rust code of our Thrift IDLs again, and the Python code of the suite's, with the compiler
# that Debian packages.
#
#   interop/idl/regenerate.sh           in the repository
#   interop/idl/regenerate.sh FOLDER    below FOLDER, by the same paths, to compare
#
# Other versions of the compiler make other code: then, and where there is none, it changes nothing
# and exits with status 77.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."

version=0.17.0
# Pairs of an IDL and the folder of its code.
idls=(
    interop/idl/suite.thrift interop/src/thrift/idl
    interop/idl/echo.thrift interop/src/thrift/idl
    examples/idl/calculator.thrift examples/src/calculator
)

into=${1:-.}
thrift=${THRIFT:-thrift}

if ! command -v "$thrift" >/dev/null 2>&1; then
    echo "no Thrift compiler: install the package thrift-compiler (apt-get install)" >&2
    exit 77
fi
found=$("$thrift" --version)
if [[ $found != "Thrift version $version" ]]; then
    echo "\`$thrift\` is of $found: the code is made by $version, set THRIFT to that one" >&2
    exit 77
fi
if ! command -v rustfmt >/dev/null 2>&1; then
    echo "no rustfmt: install it (rustup component add rustfmt)" >&2
    exit 77
fi

for ((at = 0; at < ${#idls[@]}; at += 2)); do
    idl=${idls[at]}
    folder=$into/${idls[at + 1]}
    code=$folder/$(basename "$idl" .thrift).rs
    mkdir -p "$folder"
    # Its warnings are about other languages.
    "$thrift" -nowarn --gen rs -out "$folder" "$idl"
    # It asks not to be formatted; in one form with the rest it is easier to compare.
    sed -i '/^#!\[cfg_attr(rustfmt, rustfmt_skip)\]$/d' "$code"
    rustfmt --edition 2024 --config-path rustfmt.toml "$code"
done

# For the library `thrift` of Python; `thriftpy2` reads the IDL itself. A package as it comes, but
# for its command-line clients.
folder=$into/interop/foreign
mkdir -p "$folder"
"$thrift" -nowarn --gen py -out "$folder" interop/idl/suite.thrift
rm "$folder"/suite/*-remote "$folder/__init__.py"
