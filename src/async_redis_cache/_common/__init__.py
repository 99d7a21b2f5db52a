"""Errors, options, addresses, statistics and log records, which all packages use."""
