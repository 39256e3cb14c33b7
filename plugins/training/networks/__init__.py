"""The networks: policy, critic and reference, and how they are loaded, packed and adapted."""
