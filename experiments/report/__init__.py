"""The report: one HTML file that needs nothing else, written from a run folder."""

from experiments.report.page import REPORT, write_report

__all__ = ["REPORT", "write_report"]
