"""Values to bytes and back, and what does not survive that."""
