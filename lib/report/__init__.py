"""The report: published figures as data, comparison, pictures and pages. Imports synthetic and files."""

GAP = 2  # pixels between the images of a gallery
