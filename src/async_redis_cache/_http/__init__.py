"""HTTP caching by RFC 9110, RFC 9111 and RFC 9211, without I/O: what may be stored, reused, validated and invalidated."""
