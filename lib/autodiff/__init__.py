"""Derivatives of a network's training: unrolls in constant memory, and first and second derivatives by hand.

Imports networks.
"""
