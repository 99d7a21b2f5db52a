"""The batching client for one server, sentinels and clusters; it has no notion of a cache."""
