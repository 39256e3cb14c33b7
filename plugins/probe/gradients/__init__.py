"""Gradients of the terms of the loss are measured in buckets of groups that are alike in a group metric."""
