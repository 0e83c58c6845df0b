"""Triton kernels of a decoder's step.

Each module imports triton, which comes with torch for CUDA; so what uses a kernel imports it where
it is used. A kernel runs on CPU tensors too, in Triton's interpreter, if TRITON_INTERPRET was set
to 1 before triton was first imported, as torch and transformers do.
"""
