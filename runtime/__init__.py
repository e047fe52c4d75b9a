"""What runs fleets: scheduler, conversations, storage, doors, Ray deployments and the command line."""
