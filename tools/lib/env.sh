# Sourced by tools/run and tools/test: brings .venv up to what pyproject.toml asks for.
#
# PYTHON=/path/to/python3 chooses the interpreter; without it the first one that is new enough.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
cd "$root" || exit 1

say() { printf '== %s\n' "$*" >&2; }

die() {
    printf 'error: %s\n' "$*" >&2
    exit 1
}

new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; }

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
        if new_enough "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    die "found no Python 3.11 or later (tried ${PYTHON:-python3, python3.11 to python3.14}); install one or set PYTHON"
}

# apt_install PACKAGE...: installs those Debian packages that are missing.
apt_install() {
    local package missing=() root_do=()
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q ' installed$' || missing+=("$package")
    done
    [ ${#missing[@]} -gt 0 ] || return 0
    command -v apt-get >/dev/null || die "this machine has no apt-get; install by hand: ${missing[*]}"
    if [ "$(id -u)" -ne 0 ]; then
        command -v sudo >/dev/null || die "neither root nor sudo here; as root run: apt-get install ${missing[*]}"
        root_do=(sudo)
    fi
    say "installing Debian packages: ${missing[*]}"
    "${root_do[@]}" apt-get update -qq >&2
    "${root_do[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >&2
}

make_venv() {
    local python minor
    python=$(find_python) || exit 1
    say "creating .venv with $("$python" -c 'import sys; print(sys.executable, sys.version.split()[0])')"
    # Debian ships ensurepip apart from Python, and venv without it fails half-way.
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        minor=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        say "Python $minor cannot make virtual environments: it lacks ensurepip"
        apt_install "python$minor-venv"
    fi
    "$python" -m venv --clear .venv
}

# ensure_venv [EXTRA]: .venv with zfabric installed from here, editable. Nothing to do is the usual case, and quick.
# The stamp's first line is where .venv was made (its scripts hold that path), the next ones what was installed:
# the checksum of pyproject.toml and an extra.
ensure_venv() {
    local extra=${1:-} stamp=.venv/.installed want
    want=$(sha256sum <pyproject.toml)
    if [ -f $stamp ] && [ "$(head -n 1 $stamp)" != "$root" ]; then
        say ".venv was made elsewhere"
        make_venv
    elif ! new_enough .venv/bin/python || [ ! -x .venv/bin/pip ]; then
        make_venv
    fi
    [ -f $stamp ] && grep -qF "$want $extra" $stamp && return 0
    say "installing zfabric${extra:+ and what its ${extra}s need} into .venv (pip, from pyproject.toml)"
    # compat: a path file. The import hook of the default mode would load pathlib into every leader.
    .venv/bin/python -m pip install --quiet --disable-pip-version-check \
        --config-settings editable_mode=compat --editable ".${extra:+[$extra]}"
    printf '%s\n' "$root" "$want $extra" >$stamp
}
