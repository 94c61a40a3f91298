# shellcheck shell=bash
# Sourced by the scripts beside it: makes the virtual environment and puts it in use. Sets `root`, the checkout's folder.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

fail() {
    echo "error: $*" >&2
    exit 1
}

# The first Python of at least 3.11; $PYTHON names one to use instead.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            command -v "$candidate"
            return
        fi
    done
    fail "no Python 3.11 or newer found; install one, or name it: PYTHON=/path/to/python3.11 bash $0"
}

# make_venv DIR: an environment with pip in it. Debian splits ensurepip off, then the pip outside installs one inside.
make_venv() {
    local python
    python=$(find_python)
    echo "making $1 with $python ($("$python" --version 2>&1))"
    if ! "$python" -m venv --clear "$1" >/dev/null 2>&1; then
        "$python" -m venv --clear --without-pip "$1" || fail "$python cannot make a virtual environment"
        "$python" -m pip --python "$1/bin/python" install --quiet pip ||
            fail "$python has neither ensurepip nor a pip of 22.3 or newer; install python3-venv or python3-pip"
    fi
}

# use_environment EXTRA: install the package with an extra, unless exactly this was installed before, and activate.
use_environment() {
    local venv=$root/.venv extra=$1 stamp wanted
    "$venv/bin/python" -m pip --version >/dev/null 2>&1 || make_venv "$venv"
    stamp=$venv/.installed-$extra
    wanted="$root $(cat "$root/setup.py" "$root/pyproject.toml" | cksum)"
    if [[ ! -f $stamp || $(<"$stamp") != "$wanted" ]]; then
        echo "installing editr2_jax[$extra] (once; some minutes)"
        "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --editable "${root}[$extra]" ||
            fail "the installation failed; its message stands above"
        echo "$wanted" >"$stamp"
    fi
    # shellcheck disable=SC1091  # made just now
    source "$venv/bin/activate"
    # Compiled programs are kept between runs, apart for every version of jax.
    export JAX_COMPILATION_CACHE_DIR=${JAX_COMPILATION_CACHE_DIR:-$root/.cache/jax-$(python -c 'from importlib.metadata import version; print(version("jax"))')}
    export JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS=${JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS:-0}
    export JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES=${JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES:--1}
}
