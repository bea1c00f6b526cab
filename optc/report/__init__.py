"""What was done and what it cost: the closing table, and report.html."""
