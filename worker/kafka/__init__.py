"""Records in, results and dead letters out, and the account of what is done."""
