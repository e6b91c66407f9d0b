"""The requester's command and library: hand in a job, watch it, fetch its results."""
