"""The synthetic set: its parameterisations, labels, initialisation and files. Imports data, files and rng."""
