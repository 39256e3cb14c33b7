"""The detector ``entropy_forecast`` predicts the entropy change of every update during training."""
