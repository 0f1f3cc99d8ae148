"""The report: published figures as data, comparison, pictures and pages. Imports synthetic and files."""
