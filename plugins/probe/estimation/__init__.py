"""The numbers: passes over sampled tokens, the step, the prediction and the truth."""
