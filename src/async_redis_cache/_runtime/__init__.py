"""Opening and closing, the container, and the private event loop of the synchronous API."""
