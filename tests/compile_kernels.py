"""Compile each Triton kernel for a GPU of compute capability 9.0, without one; prints the name of each that is done.

By itself, because the interpreter, which the tests use, takes the compiler's place in a process.
"""

import triton
from neurotransfer.network import triton_kernels as kernels
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

FLOATS = {"sums", "squares", "products", "shift", "sign", "mean", "scale", "bias", "level", "tilt"}  # [C] or parts
NUMBERS = {"windows", "rows", "D", "H", "W", "per"}

for kernel in (kernels._pool, kernels._scale_relu, kernels._gate_sums, kernels._unpool):
    signature = {
        name: "constexpr" if name in "CPB" else "i32" if name in NUMBERS else "*fp32" if name in FLOATS else "*bf16"
        for name in kernel.arg_names
    } | ({"at": "*u8"} if "at" in kernel.arg_names else {})
    constants = {(kernel.arg_names.index(name),): value for name, value in {"C": 96, "P": 32, "B": 32}.items()}
    made = triton.compile(ASTSource(kernel, signature, constants), target=GPUTarget("cuda", 90, 32))
    assert made.asm["cubin"]
    assert "atom" not in made.asm["ptx"], "an atomic operation: sums in no fixed order"
    print(kernel.fn.__name__)
