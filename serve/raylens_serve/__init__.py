"""Ray Serve deployments and the HTTP gateway."""
