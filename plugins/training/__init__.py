"""Training is a loop of steps, with its networks, processes, weights and the DeepSpeed backend."""
