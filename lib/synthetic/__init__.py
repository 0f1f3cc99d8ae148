"""The synthetic set: its parameterisations, labels, start, and files. Imports data, files and rng."""
