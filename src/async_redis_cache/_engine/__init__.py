"""The order of operations: reads, writes, loads and the near cache, in bytes."""
