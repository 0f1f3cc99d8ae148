"""Networks of your own: a class of a file here, `lib/own/my_nets.py`, is named in params.yaml as `own.my_nets.SmallCNN`.

lib/README.md says what such a class is. The file is executed by every stage that names it.
"""
