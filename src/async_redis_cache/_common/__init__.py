"""What every layer uses: errors, options, addresses, counters, log records."""
