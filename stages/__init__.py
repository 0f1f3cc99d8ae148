"""The pipeline's stages, one thin file each: read the recipe, call lib, write outputs. See README.md."""
