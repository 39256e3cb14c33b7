"""Dialogues: how tasks become messages, and responses become actions."""
