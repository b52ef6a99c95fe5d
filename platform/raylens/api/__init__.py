"""What goes over HTTP, in both directions: the gateway checks by it, the client and the services speak it."""
