"""The training loop, its losses and the DeepSpeed backend."""
