"""What commands print and ask: options, streams, the terminal, exit codes."""
