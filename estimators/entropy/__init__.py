"""Rules by which the coefficient of the entropy bonus moves."""
