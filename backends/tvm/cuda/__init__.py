"""Kernels for NVIDIA GPUs: stages of a task as launches, written as CUDA C by TVM's printer."""
