"""Parts of the Features page, a file each."""
