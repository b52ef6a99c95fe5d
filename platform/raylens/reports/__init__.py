"""What an audit found, as JSON that checks itself and as two reports made from it alone (A2.02, A2.04)."""
