"""Parts of the pages Audits and Audit, a file each."""
