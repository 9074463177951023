#!/bin/sh
# install.sh VENV --lock          make VENV hold exactly requirements-lock.txt, and jaxrl editable
# install.sh VENV --extra NAME    add an extra of pyproject.toml, keeping the pinned versions
#
# Needs a Python >= 3.11 and nothing else. Installs with uv, which is several times faster, and with
# pip where uv cannot be installed or cannot reach the index (it does not read pip's settings).
set -eu
venv=$1
what=$2
cd "$(dirname "$0")/.."

fits='import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 15))'

find_python() {
    for python in ${PYTHON:-python3.12 python3.13 python3.11 python3.14 python3 python}; do
        if "$python" -c "$fits" >/dev/null 2>&1; then
            echo "$python"
            return
        fi
    done
    echo "No Python between 3.11 and 3.14 with the venv module was found (tried" \
        "${PYTHON:-python3.11 to python3.14, python3}). Install one, on Debian or Ubuntu with" \
        "'apt install python3 python3-venv', on macOS with 'brew install python@3.12', or name" \
        "one: make demo PYTHON=/path/to/python3" >&2
    exit 1
}

pip_install() { "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"; }

if [ "$what" = --lock ]; then
    if ! "$venv/bin/python" -c "$fits" >/dev/null 2>&1; then
        python=$(find_python)
        echo "Creating $venv with $("$python" --version)"
        rm -rf "$venv"
        "$python" -m venv "$venv"
    fi
    if [ ! -x "$venv/bin/uv" ]; then
        pip_install "uv==$UV_VERSION" || echo "uv is not to be had here"
    fi
    echo "Installing the pinned versions"
    if ! { [ -x "$venv/bin/uv" ] &&
        "$venv/bin/uv" pip sync --quiet --python "$venv/bin/python" requirements-lock.txt; }; then
        echo "Installing with pip, which takes longer"
        pip_install --requirement requirements-lock.txt
    fi
    # hatchling is in the lock, so that building needs no download of its own.
    pip_install --no-deps --no-build-isolation --editable .
    what=${GPU:+--extra}
    set -- "$venv" "$what" "${GPU:-}"
fi

if [ "$what" = --extra ]; then
    echo "Adding the extra $3"
    if [ -x "$venv/bin/uv" ]; then
        "$venv/bin/uv" pip install --quiet --python "$venv/bin/python" \
            --constraint requirements-lock.txt --editable ".[$3]"
    else
        pip_install --constraint requirements-lock.txt --editable ".[$3]"
    fi
fi
