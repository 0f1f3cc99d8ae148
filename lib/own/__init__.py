"""Networks of your own: a class of a file here, `lib/own/my_nets.py`, is `own.my_nets.SmallCNN` in params.yaml.

lib/README.md says what such a class is. Every stage that names it executes the file. Imports torch and lib.networks.
"""
