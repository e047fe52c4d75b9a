"""The fleet on Ray Serve: one deployment for each part, and the cluster underneath."""
