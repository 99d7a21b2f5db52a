"""The decorator `cached`, and the keys and tags of function calls."""
