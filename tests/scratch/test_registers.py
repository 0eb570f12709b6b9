"""The tile's sums stay in registers: what LLVM makes of the innermost loops, for processors that need not be here."""

import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest

from fanlight.scratch.cpu import tile

ROOT = Path(__file__).resolve().parents[2]
PROCESSORS = {  # → what Numba is told, and a register of that width
    "avx512": ("skylake-avx512", "+avx,+avx2,+fma,+avx512f,+avx512vl,+avx512bw,+avx512dq,+avx512cd", "zmm"),
    "avx2": ("haswell", "+avx,+avx2,+fma", "ymm"),
}
CODE = """
import json, sys
import numba
from numba import float32, float64, int64
from fanlight.scratch.cpu.tile import M, REGISTER_BYTES, V, add_dots, add_products

how = {"nogil": True, "fastmath": {"contract", "reassoc"}, "error_model": "numpy", "no_cfunc_wrapper": True}

@numba.njit(**how)
def products(sums, to, pitch, x, start, offsets, weights, first, depth):
    add_products(sums, to, pitch, x, start, offsets, weights, first, depth)

@numba.njit(**how)
def dots(sums, first, pitch, a, a_start, a_pitch, b, b0, b1, b2, length):
    add_dots(sums, first, pitch, a, a_start, a_pitch, b, b0, b1, b2, length)

found = {"M": M, "V": V, "bytes": REGISTER_BYTES, "loops": {}}
for number in (float32, float64):
    row, whole = number[::1], int64
    for kernel, types in (
        (products, (row, whole, whole, row, whole, whole[::1], row, whole, whole)),
        (dots, (row, whole, whole, row, whole, whole, row, whole, whole, whole, whole)),
    ):
        kernel.compile(types)
        found["loops"][f"{kernel.__name__}, {number}"] = kernel.inspect_asm(types)
print(json.dumps(found))
"""


@pytest.mark.parametrize("features", ["+sse4.2,-avx,-avx2", "+neon", "+avx,+fma,-avx512f", "+avx,+avx2,+avx512f", ""])
def test_the_tile_and_what_feeds_it_fit(features):
    of_register, filters = tile.registers(features)
    there = 32 if of_register == 64 or "neon" in features else 16
    assert filters * tile.V + tile.V + 1 <= there < (2 * filters) * tile.V + tile.V + 1
    assert of_register == (64 if "+avx512f" in features else 32 if "+avx," in features else 16)


def test_this_process_has_the_tile_of_what_numba_compiles_for():
    assert tile.registers(tile._target()) == (tile.REGISTER_BYTES, tile.M)
    assert tile.lanes(4) == 2 * tile.lanes(8) == tile.REGISTER_BYTES // 4


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="LLVM's host target is another")
@pytest.mark.parametrize("processor", PROCESSORS)
def test_no_sum_leaves_its_register_inside_the_loop(processor, tmp_path):
    name, features, register = PROCESSORS[processor]
    script = tmp_path / "loops.py"
    script.write_text(CODE)
    environment = {
        **os.environ, "PYTHONPATH": str(ROOT / "src"), "FANLIGHT_CACHE": str(tmp_path), "NUMBA_CPU_NAME": name,
        "NUMBA_CPU_FEATURES": features,
    }  # fmt: skip
    done = subprocess.run([sys.executable, str(script)], env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert (found["bytes"], found["M"]) == tile.registers(features)
    tiles = found["M"] * found["V"]
    for kernel, text in found["loops"].items():
        blocks = re.split(r"^(?:\.L\w+:.*|\s+j\w+\s.*)$", text, flags=re.MULTILINE)
        body = max(blocks, key=lambda block: block.count("vfmadd"))
        added = re.findall(rf"vfmadd\w+\s.*%({register}\d+)$", body, re.MULTILINE)
        assert len(set(added)) == tiles and len(added) % tiles == 0, (kernel, body)
        stored = re.findall(r"^\s*vmov\w+\s+%[xyz]mm\d+, .*\(.*$", body, re.MULTILINE)
        reloaded = re.findall(r"^.*(?:\(%rsp|\(%rbp\)).*%[xyz]mm\d+.*$", body, re.MULTILINE)
        assert not stored and not reloaded, (kernel, stored, reloaded)
