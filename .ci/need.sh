# Sourced by ./run and ./test: installs what a machine lacks, saying so, or says what to install.

say() { echo "${0##*/}: $*" >&2; }
die() { say "$*"; exit 1; }

# need COMMAND PACKAGE: makes sure that COMMAND is there.
need() {
    command -v "$1" >/dev/null 2>&1 && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "$1 is missing: installing $2"
        refresh_packages
        DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$2" >&2 ||
            die "could not install $2: install it by hand, then try again"
    else
        die "$1 is missing: install it (on Debian: sudo apt-get install $2), then try again"
    fi
}

# want COMMAND PACKAGE: tries to make sure of it; tests that use COMMAND say that they were skipped where it is missing.
want() {
    command -v "$1" >/dev/null 2>&1 && return
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1 || return 0
    say "$1 is missing: installing $2"
    refresh_packages
    # Some packages bring a service, which is not to be started.
    RUNLEVEL=1 DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$2" >&2 ||
        say "could not install $2: tests that use it will say that they were skipped"
}

# Reads the package lists anew, once.
refresh_packages() {
    [ -n "${refreshed:-}" ] && return
    refreshed=yes
    apt-get update -q >&2 || say "apt-get update failed; trying with the lists that are there"
}

# The Rust toolchain, a C compiler and make: all that a build needs.
need_build_tools() {
    [ -x "${HOME:-}/.cargo/bin/cargo" ] && PATH="$PATH:$HOME/.cargo/bin"
    command -v cargo >/dev/null 2>&1 ||
        die "cargo is missing: install the Rust toolchain (https://rustup.rs), then try again"
    need cc build-essential
    need make make
}
