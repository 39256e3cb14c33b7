"""Environments whose tasks are solved with tools, and the tools."""
