"""The tools of MCP servers: their processes, descriptions and results."""
