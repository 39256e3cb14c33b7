"""The batches of the probe are made here: prompts are drawn, and responses to them are sampled."""
