"""One module per op family: schemas, fake kernels, autograd, and the choice of backend."""
