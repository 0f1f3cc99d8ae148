"""The pipeline's stages, one thin file each: read parameters, call lib, write outputs. Run as `python -m stages NAME KEY`."""
