"""Triton kernels: an idea per file, a row of `rows.KERNELS` each. `scratch.gpu` is the table of operators made of them.

`launch` says where they run: on a GPU, or in Triton's interpreter (TRITON_INTERPRET=1 before Triton is imported), which
gives the same numbers slowly on a CPU. Kernels take tensors and check nothing: sizes are checked by who calls. They never
wait for the GPU and allocate only what they return and partial sums, so that a CUDA graph can hold them after a first call.
"""
