"""The report: one HTML file that needs nothing else, written from a run folder."""

from experiments.report.page import write_report

__all__ = ["write_report"]
