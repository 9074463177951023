"""Environments of other libraries. Each module imports its library only when it is asked for one.

None of them uses the library's own auto-reset: it hides the true final observation. The driver
resets, and truncation is told apart from termination.
"""
