"""One module per family of ops."""
