"""Doors to the world; none knows another."""
