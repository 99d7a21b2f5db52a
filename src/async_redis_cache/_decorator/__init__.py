"""The decorator `cached`: keys and tags of function calls."""
