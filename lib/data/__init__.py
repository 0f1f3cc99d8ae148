"""Data: sources, preparation, preprocessing, and the real set on the device."""
