"""Parts of the Score card page, a file each."""
