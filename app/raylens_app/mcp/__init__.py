"""The MCP server: RayLens as tools for language models and their programs (A2.07)."""
