"""Tables, pictures and the HTML page of a study; nothing here computes what is not in the record."""

from polytask.reports.page import render_report, write_report
from polytask.reports.terminal import verdict_table

__all__ = ["render_report", "verdict_table", "write_report"]
