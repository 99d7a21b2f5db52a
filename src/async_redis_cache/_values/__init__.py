"""Serialization: values to bytes and back, with checks that nothing is lost."""
