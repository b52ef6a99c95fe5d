"""The gateway's routes, a file a noun; each makes a router of the services that it needs."""
