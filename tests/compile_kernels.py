"""Compile each Triton kernel for a GPU of compute capability 9.0, without one; prints the name of each that is done.

With a folder as its argument it leaves the machine code there, for cuobjdump.

By itself, because the interpreter, which the tests use, takes the compiler's place in a process.
"""

import sys
from pathlib import Path
from typing import Any

import triton
import triton.language as tl
from neurotransfer.network import triton_kernels as kernels
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

FLOATS = {"sums", "squares", "products", "shift", "sign", "mean", "scale", "bias", "level", "tilt", "firsts", "totals",
          "gains"}  # fmt: skip
BYTES, WHOLE = {"images", "at"}, {"seconds", "moves"}
NUMBERS = {"windows", "rows", "D", "H", "W", "d", "h", "w", "line", "plane", "volume", "per", "C", "voxels"}
FIRST = {"P": kernels.WINDOWS, "B": kernels.WIDEST_FIRST, "G": 8, "T": tl.bfloat16}
OTHERS = {"P": kernels.ROWS, "B": kernels.WIDEST}
KERNELS = [
    (kernels._pool, OTHERS),
    (kernels._scale_relu, OTHERS),
    (kernels._gate_sums, OTHERS),
    (kernels._unpool, OTHERS),
    (kernels._convolve_pool, FIRST | {"MOMENTS": True}),
    (kernels._filter_sums, FIRST),
    (kernels._augment, {"B": kernels.BYTES}),
]


def type_of(kernel, name: str, constants: dict[str, Any]) -> str:
    """Of an argument."""
    if name in constants:
        return "constexpr"
    if name in NUMBERS:
        return "i32"
    if name in BYTES or (name == "to" and kernel is kernels._augment):
        return "*u8"
    return "*i32" if name in WHOLE else "*fp32" if name in FLOATS else "*bf16"


for kernel, constants in KERNELS:
    signature = {name: type_of(kernel, name, constants) for name in kernel.arg_names}
    aligned = {
        (at,): [["tt.divisibility", 16]]
        for at, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*") or name == "C"
    }
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, places, aligned)
    warps = kernels.FIRST_WARPS if constants.get("G") else 4
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={"num_warps": warps})
    assert made.asm["cubin"]
    assert "atom" not in made.asm["ptx"], "an atomic operation: sums in no fixed order"
    print(kernel.fn.__name__)
    if len(sys.argv) > 1:
        Path(sys.argv[1], f"{kernel.fn.__name__}.cubin").write_bytes(made.asm["cubin"])
