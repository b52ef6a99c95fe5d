"""What stands between browsers and Streamlit."""
