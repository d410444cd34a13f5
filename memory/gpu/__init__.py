"""The same memories on a GPU: chunks of steps as CUDA graphs, and kernels in Triton."""
