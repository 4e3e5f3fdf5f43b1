#!/usr/bin/env python3
"""Checks the built guests against an independent account of what they should do.

Runs them with the `wasmtime` package from PyPI where that is installed, and says so where it is not. This is a check of
the guests, not of the sandbox: the hostile guests are run by the tests of the sandbox.
"""

import collections
import hashlib
import pathlib
import sys
import tempfile

GUESTS = pathlib.Path(__file__).resolve().parent
K = 11
CHUNK_BASES = 4096
LAMBDA_BASES = 48502


def run(module, argv, directories, env=()):
    """Runs a built module; returns its exit code, stdout and stderr."""
    engine = ENGINES.setdefault("engine", wasmtime.Engine())
    if module not in MODULES:
        MODULES[module] = wasmtime.Module.from_file(engine, str(GUESTS / "built" / module))
    store, linker, wasi = wasmtime.Store(engine), wasmtime.Linker(engine), wasmtime.WasiConfig()
    linker.define_wasi()
    with tempfile.TemporaryDirectory() as captured:
        wasi.argv, wasi.env = argv, list(env)
        wasi.stdout_file, wasi.stderr_file = f"{captured}/stdout", f"{captured}/stderr"
        for guest, host in directories.items():
            wasi.preopen_dir(str(host), guest)
        store.set_wasi(wasi)
        code = 0
        try:
            linker.instantiate(store, MODULES[module]).exports(store)["_start"](store)
        except wasmtime.ExitTrap as exit_trap:
            code = exit_trap.code
        del store, wasi
        return code, *((pathlib.Path(captured) / name).read_text() for name in ("stdout", "stderr"))


def genome():
    lines = (GUESTS / "data" / "lambda_phage.fa").read_text().splitlines()
    assert lines[0].startswith(">") and "NC_001416.1" in lines[0], lines[0]
    return "".join(lines[1:])


def check_data():
    bases = genome()
    assert len(bases) == LAMBDA_BASES and set(bases) == set("ACGT")
    digest = hashlib.sha256((GUESTS / "data" / "lambda_phage.fa").read_bytes()).hexdigest()
    assert digest in (GUESTS / "data" / "README.md").read_text()


def check_sums():
    built = GUESTS / "built"
    lines = [line for sums in built.glob("*SHA256SUMS") for line in sums.read_text().splitlines()]
    assert sorted(line.split()[1] for line in lines) == sorted(str(p.relative_to(built)) for p in built.rglob("*.wasm"))
    for line in lines:
        digest, name = line.split()
        assert hashlib.sha256((GUESTS / "built" / name).read_bytes()).hexdigest() == digest, name


def check_hello_and_noop():
    env = [("WC_TASK_INDEX", "3"), ("WC_TASK_COUNT", "8")]
    assert run("hello.wasm", ["hello"], {}, env) == (0, "hello from task 3 of 8\n", "")
    assert run("noop.wasm", ["noop"], {}) == (0, "", "")


def check_kmer(work):
    bases = genome()
    parts = work / "in" / "parts"
    for index, start in enumerate(range(0, len(bases), CHUNK_BASES)):
        chunk_in, part = work / f"chunk-{index}", parts / f"{index:08d}"
        chunk_in.mkdir(), part.mkdir(parents=True)
        (chunk_in / "chunk").write_text(bases[start : start + CHUNK_BASES + K - 1])
        code, _, err = run("kmer.wasm", ["kmer", "count", "--k", str(K)], {"/in": chunk_in, "/out": part})
        assert code == 0, err
    out = work / "out"
    out.mkdir()
    code, summary, err = run("kmer.wasm", ["kmer", "merge"], {"/in": work / "in", "/out": out})
    assert code == 0, err

    expected = collections.Counter(bases[i : i + K] for i in range(len(bases) - K + 1))
    ranked = sorted(expected.items(), key=lambda entry: (-entry[1], entry[0]))
    assert (out / "counts.tsv").read_text() == "".join(f"{word}\t{count}\n" for word, count in ranked)
    top = ", ".join(f"{word} {count}" for word, count in ranked[:10])
    assert summary == f"{K}-mers: {sum(expected.values())} total, {len(expected)} distinct; top 10: {top}\n", summary
    print("  " + summary.strip())

    # The FASTA file itself is a chunk too, and gives the same counts as all chunks together.
    whole, merged = work / "whole", work / "merged"
    (whole / "parts" / "00000000").mkdir(parents=True), merged.mkdir()
    (whole / "chunk").write_bytes((GUESTS / "data" / "lambda_phage.fa").read_bytes())
    assert run("kmer.wasm", ["kmer", "count"], {"/in": whole, "/out": whole / "parts" / "00000000"})[0] == 0
    assert run("kmer.wasm", ["kmer", "merge"], {"/in": whole, "/out": merged})[0] == 0
    assert (merged / "counts.tsv").read_bytes() == (out / "counts.tsv").read_bytes()

    # Ambiguous bases and records break words; case and line ends do not.
    small = work / "small"
    (small / "parts" / "00000000").mkdir(parents=True)
    (small / "chunk").write_text(">a\nacg\r\nTNAC\n>b\nGT\n")
    assert run("kmer.wasm", ["kmer", "count", "--k", "3"], {"/in": small, "/out": small / "parts" / "00000000"})[0] == 0
    assert run("kmer.wasm", ["kmer", "merge"], {"/in": small, "/out": small})[0] == 0
    assert (small / "counts.tsv").read_text() == "ACG\t1\nCGT\t1\n"


def check_kmer_refusals(work):
    good = (work / "whole" / "parts" / "00000000" / "counts").read_bytes()
    case = work / "refused"
    part = case / "parts" / "00000000"
    part.mkdir(parents=True)
    dirs = {"/in": case, "/out": part}

    def refused(argv, message):
        code, out, err = run("kmer.wasm", ["kmer", *argv], dirs)
        assert code == 2 and out == "" and message in err, (argv, code, out, err)

    refused([], "usage")
    refused(["count", "--k", "13"], "1 to 12")
    refused(["count"], "/in/chunk: No such file")
    for content, message in ((b"", "empty"), (b"ACGT!", "0x21 at offset 4"), (b"AC\0GT", "0x00 at offset 2")):
        (case / "chunk").write_bytes(content)
        refused(["count"], message)
    refused(["merge"], "/in/parts/00000000/counts: No such file")
    flipped = bytearray(good)
    flipped[-1] ^= 2
    for content, message in (
        (b"", "not a part"),
        (b"nonsense" * 9, "not a part"),
        (good[:-1], "ends early"),
        (good + b"\0", "bytes after the end"),
        (good[:4] + b"\2" + good[5:], "format version 2"),
        (good[:5] + b"\x0d" + good[6:], "header"),
        (good[:8] + b"\xff" * 8 + good[16:], "out of range"),
        (bytes(flipped), "add up"),
    ):
        (part / "counts").write_bytes(content)
        refused(["merge"], message)
    (part / "counts").write_bytes(good)
    (case / "parts" / "2").mkdir()
    refused(["merge"], "'2' is not an index")
    (case / "parts" / "2").rename(case / "parts" / "00000002")
    refused(["merge"], "highest index is 2")


def check_fractal(work):
    out = work / "fractal"
    out.mkdir()
    tiles = []
    for kind in ("mandelbrot", "julia", "julia"):
        argv = ["fractal", "--set", kind, "--size", "256"]
        env = [("WC_TASK_INDEX", "27"), ("WC_TASK_COUNT", "64")]
        code, _, err = run("fractal.wasm", argv, {"/out": out}, env)
        assert code == 0, err
        tiles.append((out / "tile.rgb").read_bytes())
    assert all(len(tile) == 32 * 32 * 3 for tile in tiles) and tiles[1] == tiles[2] != tiles[0]
    assert all(len(set(tile)) > 64 for tile in tiles)

    # Four tiles together are the picture that one tile alone is.
    def picture(count):
        side = 64 // int(count**0.5)
        rows = [b""] * 64
        for index in range(count):
            env = [("WC_TASK_INDEX", str(index)), ("WC_TASK_COUNT", str(count))]
            assert run("fractal.wasm", ["fractal", "--size", "64"], {"/out": out}, env)[0] == 0
            tile = (out / "tile.rgb").read_bytes()
            for y in range(side):
                rows[index // (64 // side) * side + y] += tile[y * side * 3 : (y + 1) * side * 3]
        return rows

    assert picture(1) == picture(4)
    for argv, env in (
        (["--size", "0"], []),
        (["--size"], []),
        (["--center", "1"], []),
        (["--scale", "nan"], []),
        (["--nonsense", "1"], []),
        (["--tiles", "63"], []),
        (["--tiles", "16"], [("WC_TASK_COUNT", "64")]),
        ([], [("WC_TASK_INDEX", "64"), ("WC_TASK_COUNT", "64")]),
    ):
        code, _, err = run("fractal.wasm", ["fractal", *argv], {"/out": out}, env)
        assert code == 2 and err.startswith("fractal: "), (argv, code, err)


def check_kernels():
    for name in ("integer", "float", "memory"):
        first, again = (run(f"kernels/{name}.wasm", [name, "1"], {}) for _ in range(2))
        assert first == again and first[0] == 0 and first[1].startswith(f"{name} 1 "), first
        print("  " + first[1].strip())


def main():
    check_data()
    check_sums()
    print("data and sums are right")
    if wasmtime is None:
        print("SKIP: the Python package wasmtime is not installed, so no guest was run (pip install wasmtime)")
        return
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)
        check_hello_and_noop()
        check_kmer(work)
        check_kmer_refusals(work)
        check_fractal(work)
        check_kernels()
    print("all guests do what they should")


try:
    import wasmtime
except ImportError:
    wasmtime = None
ENGINES, MODULES = {}, {}

if __name__ == "__main__":
    sys.exit(main())
