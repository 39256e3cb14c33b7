"""The rollout engine ``vllm`` runs vLLM in a process of its own, on the trainer's GPU or on others."""
