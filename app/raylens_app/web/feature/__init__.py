"""Parts of the Feature page, a file each."""
