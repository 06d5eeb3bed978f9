"""The command line: study, fit, predict, report, check, methods, demo."""
