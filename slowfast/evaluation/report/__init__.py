"""The report page: one self-contained HTML file about the result of a test."""
