"""Plain PyTorch formulas: the oracle of the tests, the last fallback, the benchmark's check."""
