#!/bin/sh
# Builds the example guests: `build.sh` into guests/built, `build.sh --check` into a temporary directory, to see
# whether what is committed is what the sources say.
#
# The same toolchain gives the same bytes. --check compares them if the toolchain is the recorded one
# (built/TOOLCHAIN); with another one it says so and only checks that everything builds.
#
# `build.sh --component` makes built/hello.component.wasm, the preview 2 component of hello, with Cargo; its bytes hang on
# componentize/Cargo.lock and on hello.wasm alone.
#
# CC and TARGET may name another clang with a WASI sysroot, for example CC=/opt/wasi-sdk/bin/clang TARGET=wasm32-wasip1.
set -eu
export LC_ALL=C
cd "$(dirname "$0")"

CC=${CC:-clang}
TARGET=${TARGET:-wasm32-wasi}

fail() {
    echo "build.sh: $*" >&2
    exit 1
}

need_tools() {
    missing=
    command -v "$CC" >/dev/null || missing="$missing clang"
    command -v wasm-ld >/dev/null || missing="$missing lld"
    if [ -z "$missing" ]; then
        [ -e "$(library libc.a)" ] || missing="$missing wasi-libc"
        [ -e "$("$CC" --target="$TARGET" --print-libgcc-file-name)" ] || missing="$missing libclang-rt-14-dev-wasm32"
    fi
    [ -z "$missing" ] || fail "tools are missing; on Debian: apt-get install clang lld wasi-libc libclang-rt-14-dev-wasm32
  (not found:$missing)"
}

library() {
    "$CC" --target="$TARGET" --print-file-name="$1"
}

# Everything that decides about the bytes of a module, one line each.
toolchain() {
    "$CC" --version | head -n 1
    wasm-ld --version | head -n 1
    for file in "$(library crt1-command.o)" "$(library libc.a)" \
        "$("$CC" --target="$TARGET" --print-libgcc-file-name)"; do
        if [ -e "$file" ]; then
            echo "$(basename "$file") $(sha256sum <"$file" | cut -d ' ' -f 1)"
        fi
    done
}

# compile OPTIMISATION SOURCE MODULE [FLAGS...]
compile() {
    optimisation=$1 source=$2 module=$3
    shift 3
    mkdir -p "$(dirname "$module")"
    "$CC" --target="$TARGET" -std=gnu11 "-$optimisation" -Wall -Wextra -Werror -Wl,--strip-all "$source" -o "$module" "$@"
    chmod 644 "$module"
}

build_into() {
    compile O2 fractal/fractal.c "$1/fractal.wasm"
    compile O2 kmer/kmer.c "$1/kmer.wasm"
    compile Os noop/noop.c "$1/noop.wasm" -nostdlib
    compile Os hello/hello.c "$1/hello.wasm"
    compile Os invert/invert.c "$1/invert.wasm"
    for source in kernels/*.c; do
        compile O2 "$source" "$1/${source%.c}.wasm"
    done
    for source in hostile/*.c; do
        case $source in
        hostile/declare_memory.c) compile Os "$source" "$1/${source%.c}.wasm" -Wl,--initial-memory=4294901760 ;;
        *) compile Os "$source" "$1/${source%.c}.wasm" ;;
        esac
    done
    (cd "$1" && find . -name '*.wasm' ! -name '*.component.wasm' | sed 's|^\./||' | sort | xargs sha256sum >SHA256SUMS)
}

need_tools
case ${1:-} in
'')
    build_into built
    toolchain >built/TOOLCHAIN
    echo "built $(wc -l <built/SHA256SUMS) modules into guests/built" >&2
    ;;
--check)
    (cd built && sha256sum --quiet -c SHA256SUMS COMPONENT_SHA256SUMS) || fail "guests/built does not match its own sums"
    fresh=$(mktemp -d)
    trap 'rm -rf "$fresh"' EXIT
    build_into "$fresh"
    toolchain >"$fresh/TOOLCHAIN"
    if cmp -s built/TOOLCHAIN "$fresh/TOOLCHAIN"; then
        diff built/SHA256SUMS "$fresh/SHA256SUMS" >&2 || fail "guests/built is not what the sources give; run guests/build.sh"
        echo "$(wc -l <built/SHA256SUMS) modules are byte for byte what the sources give" >&2
    else
        diff built/TOOLCHAIN "$fresh/TOOLCHAIN" >&2 || true
        echo "another toolchain than the recorded one: all $(wc -l <"$fresh/SHA256SUMS") modules build, bytes not compared" >&2
    fi
    ;;
--component)
    (cd componentize && CARGO_TARGET_DIR=../target cargo run --locked --quiet -- ../built/hello.wasm ../built/hello.component.wasm)
    (cd built && sha256sum hello.component.wasm >COMPONENT_SHA256SUMS)
    ;;
*) fail "usage: build.sh [--check | --component]" ;;
esac
