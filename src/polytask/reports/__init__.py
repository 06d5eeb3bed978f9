"""Tables, pictures and the HTML page of a study or a training; nothing here computes what is not in the record."""

from polytask.reports.page import render_relatedness, render_report, render_run, render_sharing, write_report
from polytask.reports.terminal import verdict_table

__all__ = ["render_relatedness", "render_report", "render_run", "render_sharing", "verdict_table", "write_report"]
