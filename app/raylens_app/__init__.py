"""Faces: the command line now; Streamlit pages and the MCP server to come."""
