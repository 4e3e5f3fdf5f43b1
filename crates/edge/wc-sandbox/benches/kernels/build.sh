#!/bin/sh
# Builds the kernels of the sandbox bench; the results are committed so that the bench needs no C compiler.
set -eu
cd "$(dirname "$0")"
for kernel in integer float memory; do
    clang --target=wasm32 -O2 -nostdlib -Wl,--no-entry -Wl,--strip-all -o "$kernel.wasm" "$kernel.c"
done
