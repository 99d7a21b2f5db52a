"""Commands, scripts and the record header, without I/O."""
