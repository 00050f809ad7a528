"""Triton kernels and their launchers, one module per family; nothing here imports the rest of pyaegpu."""
