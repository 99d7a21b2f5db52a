"""The public classes, which take contexts, keys, values and durations."""
