"""Kernels through TVM: from a Task to object code with a plain C interface."""
