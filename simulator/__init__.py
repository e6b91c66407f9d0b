"""A grid in virtual time: simulated hosts and requesters around the coordinator that the server runs."""
