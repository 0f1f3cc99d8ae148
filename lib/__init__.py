"""Distillery's library: data, networks, methods, training and reporting. It knows nothing about DVC."""
