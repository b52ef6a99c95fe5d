"""Parts of the Compare page, a file each."""
