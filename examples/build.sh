#!/usr/bin/env bash
# build.sh [rust] [c]: rebuilds examples/prebuilt/*.wasm from examples/components; by default all.
#
# Rust components are built for wasm32-wasip2 where the toolchain has that target
# (`rustup target add wasm32-wasip2`). Where it has not and cannot get it, as on a machine with
# Debian's packages only, the standard library is built from Debian's sources by Debian's rustc,
# for wasm32-unknown-unknown: the components call WASI through their bindings, never through std,
# so both targets give the same component. The C component needs a clang for wasm32, for which
# Zig is the smallest download, and wit-bindgen. Nothing is installed: whatever is missing is
# put into ${XDG_CACHE_HOME:-~/.cache}/coracle-guests, and this script says so.
set -euo pipefail
cd "$(dirname "$0")"

cache="${XDG_CACHE_HOME:-$HOME/.cache}/coracle-guests"
prebuilt="$PWD/prebuilt"
export CARGO_TARGET_DIR="$cache/target"
mkdir -p "$cache" "$prebuilt"

say() { echo "build.sh: $*" >&2; }
die() { say "$*"; exit 1; }

sysroot="$(rustc --print sysroot)"
host="$(rustc -vV | sed -n 's/^host: //p')"
tools="$sysroot/lib/rustlib/$host/bin" # wasm-component-ld and wasm-ld come with Rust.
[ -x "$tools/wasm-component-ld" ] || die "no wasm-component-ld in $tools: use a Rust toolchain from rustup"

# Debian's rustc, standard library sources and LLVM: 137 MB to download, 700 MB unpacked.
unpack_debian_rust() {
    debian="$cache/debian"
    [ -e "$debian/.complete" ] && return
    command -v dpkg >/dev/null && command -v apt-get >/dev/null ||
        die "this toolchain lacks wasm32-wasip2: run \`rustup target add wasm32-wasip2\`"
    say "no wasm32-wasip2 target here: unpacking Debian's Rust into $debian"
    rm -rf "$debian" && mkdir -p "$debian/packages" && cd "$debian/packages"
    # The newest standard library and the LLVM that rustc-web was built with, by its own account.
    local rustc_depends std llvm
    depends() { apt-cache depends --important "$1" | sed -n 's/^ *Depends: \([^<]*\)$/\1/p'; }
    std="$(depends libstd-rust-web-dev | grep '^libstd-rust-web-[0-9]' || true)"
    [ -n "$std" ] || die "apt knows no libstd-rust-web-dev: run \`apt-get update\` as root first"
    llvm="$(depends "$std" | grep '^libllvm')"
    apt-get download rustc-web rust-web-src libstd-rust-web-dev "$std" "$llvm"
    for package in *.deb; do dpkg -x "$package" "$debian"; done
    cd - >/dev/null
    rm -rf "$debian/packages" && touch "$debian/.complete"
}

# RUSTFLAGS replaces those of components/.cargo/config.toml, so the stack size is given here again.
# Paths of this machine do not belong into a component.
flags="-Clink-arg=-zstack-size=65536 --remap-path-prefix=$PWD/components=components --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"

# build_rust CRATE[=NAME]…: builds each as prebuilt/NAME.wasm, all with one call of cargo. What is
# in its environment (HELLO_VERSION) may be baked in.
build_rust() {
    local target=wasm32-wasip2 crates=() item
    for item in "$@"; do crates+=(-p "${item%%=*}"); done
    if [ -d "$sysroot/lib/rustlib/wasm32-wasip2" ]; then
        (cd components && RUSTFLAGS="$flags" \
            cargo build --quiet --locked --release --target $target "${crates[@]}")
    else
        unpack_debian_rust
        target=wasm32-unknown-unknown
        (cd components && env \
            RUSTC="$debian/usr/bin/rustc" RUSTC_BOOTSTRAP=1 \
            LD_LIBRARY_PATH="$debian/usr/lib/$(uname -m)-linux-gnu" \
            PATH="$tools/gcc-ld:$PATH" \
            CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER="$tools/wasm-component-ld" \
            RUSTFLAGS="$flags -Zlocation-detail=none -Zunstable-options -Cpanic=immediate-abort" \
            cargo build --quiet --locked --release --target $target "${crates[@]}" \
            -Zbuild-std=std,panic_abort -Zbuild-std-features=optimize_for_size)
    fi
    for item in "$@"; do
        local crate="${item%%=*}"
        cp "$CARGO_TARGET_DIR/$target/release/${crate//-/_}.wasm" "$prebuilt/${item#*=}.wasm"
    done
}

# build_c NAME WORLD FOLDER: links components/FOLDER/*.c and the bindings of WORLD.
build_c() {
    local name="$1" world="$2" folder="$3" work="$cache/c/$1" bindings zig
    bindings="$work/${world//-/_}"
    rm -rf "$work" && mkdir -p "$work"

    PATH="$PATH:$cache/bin"
    command -v wit-bindgen >/dev/null || {
        say "building wit-bindgen into $cache"
        cargo install --quiet --locked --root "$cache" --no-default-features --features c \
            wit-bindgen-cli --version 0.57.1
    }
    wit-bindgen c ../wit --world "$world" --out-dir "$work" >/dev/null

    zig="zig"
    command -v zig >/dev/null || {
        [ -e "$cache/zig/ziglang" ] || {
            say "downloading Zig (100 MB) into $cache"
            python3 -m pip install --quiet --target "$cache/zig" ziglang==0.17.0
        }
        zig="env PYTHONPATH=$cache/zig python3 -m ziglang"
    }
    local objects=("${bindings}_component_type.o")
    for source in "components/$folder"/*.c "$bindings.c"; do
        local object="$work/$(basename "$source" .c).o"
        $zig cc -target wasm32-wasi -mcpu=generic+bulk_memory -Oz -Wall -ffunction-sections \
            -I"$work" -c "$source" -o "$object"
        objects+=("$object")
    done
    PATH="$tools/gcc-ld:$PATH" "$tools/wasm-component-ld" --no-entry --gc-sections --strip-all \
        -z stack-size=16384 -o "$prebuilt/$name.wasm" "${objects[@]}"
}

[ $# -gt 0 ] || set -- rust c
for language in "$@"; do
    case $language in
    rust)
        HELLO_VERSION=v1 build_rust hello-http=hello-v1
        HELLO_VERSION=v2 build_rust hello-http=hello-v2
        build_rust hello-command hello-config probe-files probe-grpc probe-http probe-net \
            async-http async-command
        ;;
    c) build_c hello-c http-service hello-c ;;
    *) die "$language: not one of rust, c" ;;
    esac
done

ls -l "$prebuilt"
