"""The keys, tags and result types of the calls of functions."""
