"""The operators on a GPU, by the Triton kernels of `fanlight.kernels`: shapes are checked here, as for every backend.

Tensors on a GPU are taken as they are, best channels last, and give tensors, channels last; nothing waits for the GPU. NumPy
arrays are copied there and back, and give arrays. Numbers are float32, bfloat16 or float16; sums are float32.
"""
