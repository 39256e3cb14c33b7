"""The detector that predicts during training."""
