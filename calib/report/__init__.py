"""The pages: a model's report, its figures, tables and words in one HTML file."""

from calib.report._faults import InputFault
from calib.report.entry import write_entry
from calib.report.samples import write_sample_report
from calib.report.text import finding, interval_text
from calib.report.write import write_report

__all__ = [
    "InputFault", "finding", "interval_text", "write_entry", "write_report", "write_sample_report",
]  # fmt: skip
