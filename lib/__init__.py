"""Distillery's library; README.md has the map of its rooms. It knows nothing about DVC."""
