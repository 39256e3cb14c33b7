"""The numbers are computed here: passes over sampled tokens, the step, the predicted and the measured change."""
