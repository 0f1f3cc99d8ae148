"""Training that all methods share: the outer loop, students, experts, batches, losses, passes and their price.

Imports synthetic, networks, augment, data and what is below.
"""
