"""The pages: a model's report, its figures, tables and words in one HTML file."""

from calib.report._faults import InputFault
from calib.report.text import finding, interval_text
from calib.report.write import write_report

__all__ = ["InputFault", "finding", "interval_text", "write_report"]
