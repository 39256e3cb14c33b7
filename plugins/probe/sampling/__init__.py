"""The batches of the probe: where prompts come from, and what is sampled for them."""
