"""What every client of another machine needs: addresses, keys, time, and how long it is asked to wait."""
