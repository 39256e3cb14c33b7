"""Conversations and the engines that sample them."""
