"""What distilled sets are measured by: baselines, perturbation, fair scores, teachers, continual learning, membership.

Imports methods, training and what is below.
"""
