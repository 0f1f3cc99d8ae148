"""The report: published figures as data, comparison with what was measured, pictures and one HTML page."""
