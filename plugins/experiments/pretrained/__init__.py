"""Pretrained language models from files: GGUF, and the one that a Python package brings."""
