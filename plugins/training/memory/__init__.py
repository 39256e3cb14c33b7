"""What a run holds in the memory of a GPU, before anything is loaded."""
