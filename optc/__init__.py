"""The façade of optc: capture, compile, load."""
