"""Benchmarks: interleaved comparisons with stock PyTorch, gated on correctness. See README.md here."""
