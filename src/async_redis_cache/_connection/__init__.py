"""Sockets, TLS, the connection pool and the push connection; only here redis-py is imported."""
