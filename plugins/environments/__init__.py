"""Environments: multi-turn text tasks."""
