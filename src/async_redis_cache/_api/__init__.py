"""The public classes: contexts, keys, values and durations."""
