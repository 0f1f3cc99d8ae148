"""params.yaml: models, checks and the recipes made of it. Imports every room of lib; no room imports it."""
