"""Compile each Triton kernel for a GPU of compute capability 9.0, without one; prints the name of each that is done.

With a folder as its argument it leaves the machine code there, for cuobjdump.

By itself, because the interpreter, which the tests use, takes the compiler's place in a process.
"""

import sys
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from neurotransfer.network import triton_convolution as convolution
from neurotransfer.network import triton_kernels as kernels
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

FLOATS = {"weight", "bias", "left_out", "running_mean", "running_var", "by_weight", "by_bias", "by_left_out", "dense",
          "rounded", "parts", "filters", "firsts", "totals", "gains"}  # fmt: skip
BYTES, WHOLE, EXACT = {"images", "at", "columns"}, {"seconds", "moves"}, {"sums", "raw", "exact", "mine", "everywhere"}
NUMBERS = {
    "windows",
    "rows",
    "D",
    "H",
    "W",
    "d",
    "h",
    "w",
    "line",
    "plane",
    "volume",
    "per",
    "C",
    "row",
    "voxels",
    "width",
}
FIRST = {"P": kernels.FIRST_ROWS[torch.bfloat16], "B": kernels.FIRST_WIDEST, "T": tl.bfloat16}
FILTERS = FIRST | {"P": kernels.FILTER_ROWS[torch.bfloat16]}
NARROW = {"C": 32, "OUT": 64, "B": convolution.FILTER_WIDTH, "T": tl.bfloat16, "OFFSET": tl.int32}
OTHERS, FEW = {"P": kernels.ROWS, "B": kernels.WIDEST}, {"B": kernels.FEW}
KERNELS = [
    (kernels._pool, OTHERS),
    (kernels._raw_sums, FEW),
    (kernels._settle, FEW | {"TRAINING": True}),
    (kernels._scale_relu, OTHERS),
    (kernels._gate_sums, OTHERS),
    (kernels._spread, FEW | {"TRAINING": True}),
    (kernels._unpool, OTHERS),
    (kernels._pad, {"R": kernels.LINES, "B": 256}),
    (kernels._columns, {"P": kernels.COLUMN_ROWS}),
    (kernels._shift, FEW),
    (kernels._convolve_pool, FIRST),
    (kernels._moments, {"P": kernels.MOMENT_ROWS}),
    (kernels._filter_sums, FILTERS),
    (kernels._augment, {"R": kernels.LINES, "B": 256}),
    (convolution._input_gradient, NARROW | {"P": convolution.INPUT_ROWS}),
    (convolution._filter_gradient, NARROW | {"P": convolution.FILTER_ROWS}),
]


def type_of(kernel, name: str, constants: dict[str, Any]) -> str:
    """Of an argument."""
    if name in constants:
        return "constexpr"
    if name in NUMBERS:
        return "i32"
    if kernel is kernels._columns:
        return "*u16"
    if name in BYTES or (name == "to" and kernel in (kernels._pad, kernels._augment)):
        return "*u8"
    if name == "filters" and kernel in (kernels._convolve_pool, convolution._input_gradient):
        return "*bf16"
    if name == "to" and kernel is convolution._filter_gradient:
        return "*fp32"
    if name in EXACT or (name == "to" and kernel is kernels._raw_sums):
        return "*fp64"
    if name in ("epsilon", "momentum"):
        return "fp32"
    if name == "steps":
        return "*i64"
    return "*i32" if name in WHOLE else "*fp32" if name in FLOATS else "*bf16"


for kernel, constants in KERNELS:
    signature = {name: type_of(kernel, name, constants) for name in kernel.arg_names}
    aligned = {
        (at,): [["tt.divisibility", 16]]
        for at, name in enumerate(kernel.arg_names)
        if signature[name].startswith("*") or (name == "C" and name not in constants)
    }
    places = {(kernel.arg_names.index(name),): value for name, value in constants.items()}
    source = ASTSource(kernel, signature, places, aligned)
    made = triton.compile(source, target=GPUTarget("cuda", 90, 32))
    assert made.asm["cubin"]
    assert "atom" not in made.asm["ptx"], "an atomic operation: sums in no fixed order"
    print(kernel.fn.__name__)
    if len(sys.argv) > 1:
        Path(sys.argv[1], f"{kernel.fn.__name__}.cubin").write_bytes(made.asm["cubin"])
