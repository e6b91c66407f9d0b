"""The SQL schema of the job database, and the migrations that are the only road to it."""
